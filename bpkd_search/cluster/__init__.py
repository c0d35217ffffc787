"""The search on Ray: placement, warm actors, what nodes read, and the driver. No other room imports Ray."""

"""The search: engine, study and rungs without Ray; adapters, trial actor and driver with it."""

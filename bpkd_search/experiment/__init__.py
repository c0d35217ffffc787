"""The experiment directory: its paths, the event log, the Parquet tables derived from it, and reading them."""

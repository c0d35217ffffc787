"""The experiment folder: where each file is, the event log, the Parquet tables made from it, and reading them."""

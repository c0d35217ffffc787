"""The experiment folder: where each file lies, the event log, the Parquet tables made from it, and reading them."""

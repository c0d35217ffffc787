"""Results: the event log, Parquet tables made from it, and leaderboards. Knows neither torch nor Ray."""

"""Analysis of experiments as pandas frames, and loggers. Imports neither torch nor Ray."""

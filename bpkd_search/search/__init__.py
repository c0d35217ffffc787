"""The search without Ray: engine, Optuna study, samplers, early stopping, replay and simulation."""

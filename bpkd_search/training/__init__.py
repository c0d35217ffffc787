"""Distillation runs: inputs, the teacher, one run from start to end, and what a process keeps between runs."""

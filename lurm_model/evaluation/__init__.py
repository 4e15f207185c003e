"""Frozen probes on known tasks, beside baselines."""

"""Trying out: brokers and workers as child processes, and the demo."""

"""Benchmarks: scripts that print machine, versions, commit and a ratio against a peer measured in the same run."""

"""Benchmarks: scripts that print machine, versions, commit and a ratio against a peer measured in the same run."""

import lurm_model  # noqa: F401 - before torch: it says how OpenMP's threads wait

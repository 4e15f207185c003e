"""Encoding lives, in full and incrementally."""

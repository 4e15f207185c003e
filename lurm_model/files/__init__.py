"""Events, items and labels in files."""

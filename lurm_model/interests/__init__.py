"""Item to vector to interest: what a Bag-of-Interests counts."""

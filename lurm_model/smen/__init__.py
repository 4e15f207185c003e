"""The Self-supervised Multi-anchor Encoder Network, one module a file."""

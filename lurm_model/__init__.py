"""The model LURM: Bag-of-Interests and the Self-supervised Multi-anchor Encoder Network (SMEN).

Knows torch, neither Kafka nor RocksDB.
"""

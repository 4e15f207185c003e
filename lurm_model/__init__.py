"""The model LURM: Bag-of-Interests and the Self-supervised Multi-anchor Encoder Network; knows no Kafka, no RocksDB."""

import os

# Read by OpenMP when torch loads. Threads that spin while they wait starve whatever shares the machine, a broker or a
# worker's event loop, and then each other: on two busy cores a training took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

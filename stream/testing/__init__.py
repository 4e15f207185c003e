"""What adopters test with: a worker in memory, without broker and Faust, and a bundle that needs no training."""

from stream.testing.bundle import tiny_bundle
from stream.testing.harness import Harness
from stream.testing.topics import Failure, StoredRecord, TransactionFailed

__all__ = ["Failure", "Harness", "StoredRecord", "TransactionFailed", "tiny_bundle"]

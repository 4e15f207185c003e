"""The state: exact sparse rows per user and period in RocksDB; knows no Kafka, torch or Prometheus."""

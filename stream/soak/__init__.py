"""The soak: random faults under load, and a check that what Kafka holds is what the events give."""

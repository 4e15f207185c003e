"""The shell around state and model: the only package that knows Kafka, Faust and Prometheus."""

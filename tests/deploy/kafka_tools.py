"""Kafka's command line tools under the names that an operator types."""

from pathlib import Path

from tests.brokers import kafka_home

# What the scripts of a distribution start.
MAIN_CLASSES = {
    "kafka-console-consumer.sh": "consumer.ConsoleConsumer",
    "kafka-consumer-groups.sh": "consumer.group.ConsumerGroupCommand",
    "kafka-metadata-quorum.sh": "MetadataQuorumCommand",
    "kafka-topics.sh": "TopicCommand",
    "kafka-transactions.sh": "TransactionsCommand",
}


def write_tools(folder: Path) -> Path:
    """Make the scripts of a distribution, which need not have any, in a new folder."""
    folder.mkdir()
    for name, main in MAIN_CLASSES.items():
        script = folder / name
        classes = f"{kafka_home()}/libs/*"
        script.write_text(f'#!/bin/sh\nexec java -Xmx128m -cp "{classes}" org.apache.kafka.tools.{main} "$@"\n')
        script.chmod(0o755)
    return folder

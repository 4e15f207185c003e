"""`make bench`: run every benchmark that this machine can; see RESULTS.md for what was seen where."""

import argparse
import sys

from tests.bench import ingest
from tests.bench.machine import describe
from tests.brokers import kafka_home


def main() -> int:
    """Run and print; 1 when there is nothing to run on."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events per run (1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, alternating (3)")
    arguments = parser.parse_args()
    print(describe())
    if kafka_home() is None:
        print("set KAFKA_HOME to an Apache Kafka distribution: the peers run on real Kafka", file=sys.stderr)
        return 1
    ingest.run(arguments.events, arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: run the benchmarks that this machine can; see RESULTS.md for what was seen where."""

import argparse
import sys

from tests.bench import ablation, against, attributes, clustering, disk, encode, freshness, ingest, restore, robustness
from tests.bench.machine import describe
from tests.brokers import kafka_home

# What runs, by name: a function of (events or rows, rounds), and whether it needs real Kafka.
BENCHMARKS = {
    "encode": (encode.run, False),
    "ingest": (ingest.run, True),
    "attributes": (attributes.run, True),
    "peers": (ingest.run_peers, True),
    "freshness": (freshness.run, True),
    "restore": (restore.run, False),
    "recovery": (restore.run_worker, True),
    "snapshot": (restore.run_snapshot, False),
    "disk": (disk.run, False),
    "life": (disk.run_life, False),
    "clustering": (clustering.run, False),
}


def main() -> int:
    """Run and print; 1 when something asked for cannot run here."""
    for name, main_of in (("ablation", ablation.main), ("against", against.main), ("robustness", robustness.main)):
        if sys.argv[1:2] == [name]:
            return main_of(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (all)")
    parser.add_argument("--events", type=int, default=1_000_000, help="events or rows per run (1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, alternating (3)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    print(describe())
    missing = False
    for name in arguments.names or BENCHMARKS:
        run, needs_kafka = BENCHMARKS[name]
        if needs_kafka and kafka_home() is None:
            print(f"{name}: set KAFKA_HOME to an Apache Kafka distribution", file=sys.stderr)
            missing = True
            continue
        run(arguments.events, arguments.rounds)
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())

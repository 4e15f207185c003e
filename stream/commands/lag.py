"""`lurm lag` and `lurm exporter`: how far the group is behind, once or for Prometheus."""

import logging
import threading
import time

import click

from stream.errors import LurmError
from stream.printable import configure_logging, say, say_json
from stream.settings import Settings
from stream.stop_signal import StopSignal

logger = logging.getLogger("lurm")

LAG_EXAMPLES = """
\b
Examples:
  lurm lag
  LURM_APP__ID=lurm lurm lag --json
"""
EXPORTER_EXAMPLES = """
\b
Examples:
  lurm exporter
  LURM_METRICS__HOST=0.0.0.0 lurm exporter --port 9109
"""


@click.command(epilog=LAG_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def lag(settings: Settings, *, as_json: bool) -> None:
    """Show how many events the group has not applied yet, and how old the first of them is, per partition.

    hidden_events come on top: nobody can read them until a producer ends its transaction.

    It asks the broker, so it is right also while no worker runs.
    """
    from stream.kafka.lag import LagReader  # noqa: PLC0415 - --help needs no Kafka client

    with LagReader(settings) as reader:
        partitions = reader.read(time.time())
    total = {
        "lag_events": sum(each.lag_events for each in partitions),
        "lag_seconds": max(each.lag_seconds for each in partitions),
        "hidden_events": sum(each.hidden_events for each in partitions),
    }
    if as_json:
        found = {"app": settings.app.id, "topic": settings.topics.events, "total": total}
        say_json(found | {"partitions": [each._asdict() for each in partitions]})
        return
    say(_line("partition", "committed", "end", "lag_events", "lag_seconds", "hidden_events"))
    for number, committed, end, events, seconds, hidden in partitions:
        say(_line(number, "none" if committed is None else committed, end, events, f"{seconds:.1f}", hidden))
    say(_line("all", "", "", total["lag_events"], f"{total['lag_seconds']:.1f}", total["hidden_events"]))


def _line(*cells: object) -> str:
    return " ".join(f"{cell!s:>13}" for cell in cells)


@click.command(epilog=EXPORTER_EXAMPLES)
@click.option("--port", type=click.IntRange(0, 65_535), default=9109, show_default=True, help="0: any free one.")
@click.option("--interval-s", type=click.FloatRange(0.5), default=10.0, show_default=True, help="Pause between looks.")
@click.pass_obj
def exporter(settings: Settings, port: int, interval_s: float) -> None:
    """Serve the group's lag as metrics until stopped, on metrics.host: right also while no worker runs.

    /readyz answers 503 while the broker does not answer; the exporter goes on asking.
    """
    from stream.kafka.lag import LagMetrics, LagReader  # noqa: PLC0415
    from stream.worker.health import HealthServer  # noqa: PLC0415 - --help needs no Kafka client

    stop = StopSignal()
    configure_logging(settings.worker.log_level)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    metrics = LagMetrics(settings.app.id)
    seeing = threading.Event()
    address, token = (settings.metrics.host, port), settings.metrics.token.get_secret_value()
    server = HealthServer(address, metrics.registry, lambda: True, seeing.is_set, token, "choose another --port")
    logger.info("serving metrics: address=%s:%d", settings.metrics.host, server.port)
    while not stop.wait(0):
        try:
            with LagReader(settings) as reader:
                while True:
                    metrics.show(reader.read(time.time()))
                    seeing.set()
                    if stop.wait(interval_s):
                        break
        except LurmError as error:
            logger.error("cannot read the lag: %s", error)  # noqa: TRY400 - an operator's error is one line
            seeing.clear()
            metrics.show_nothing()
            stop.wait(interval_s)
    server.close()

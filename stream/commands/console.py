"""`lurm console`: a page that shows an application live, and one user at a time."""

import logging
import time
from typing import Any

import click

from stream.printable import configure_logging
from stream.settings import Kafka, Settings
from stream.stop_signal import StopSignal

logger = logging.getLogger("lurm")

EXAMPLES = """
\b
Examples:
  lurm console
  lurm console --worker http://10.0.0.5:9108 --worker http://10.0.0.6:9108
  LURM_MODEL__BUNDLE=bundle lurm console --port 8080
"""
_N_RECENT = 8


@click.command(epilog=EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to bind. Without a token, whoever reaches it reads users.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65_535), default=9110, show_default=True, help="0: any free one.")
@click.option("--worker", "workers", multiple=True, metavar="URL", help="Worker to show; repeat. [default: metrics.*]")
@click.option("--interval-s", type=click.FloatRange(0.5), default=2.0, show_default=True, help="Pause between looks.")
@click.option("--memory-mb", type=click.IntRange(1), default=1024, show_default=True, help="Held of the topics.")
@click.pass_obj
def console(
    settings: Settings, *, host: str, port: int, workers: tuple[str, ...], interval_s: float, memory_mb: int
) -> None:
    """Serve a page with partitions, lag, freshness and dirty users, live, and an inspector of users.

    Rows and embeddings are read from the topics once and followed. Beyond --memory-mb (about) only a share of the users
    is held; the others are read from the topics when asked for. With a bundle, interests are shown with their items.
    With LURM_CONSOLE__TOKEN the browser asks for it as the password (any user name).
    """
    from stream.console.broker import BrokerWatch  # noqa: PLC0415 - --help needs no Kafka client
    from stream.console.held import Held  # noqa: PLC0415
    from stream.console.overview import overview  # noqa: PLC0415
    from stream.console.server import Api, ConsoleServer  # noqa: PLC0415
    from stream.console.user import Inspector  # noqa: PLC0415
    from stream.console.workers import WorkerWatch, worker_urls  # noqa: PLC0415
    from stream.operations.interest_names import top_items  # noqa: PLC0415

    stop = StopSignal()
    configure_logging(settings.worker.log_level)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    urls, items, held = worker_urls(workers, settings.metrics), top_items(settings), Held(memory_mb << 20)
    quick = settings.model_copy(update={"kafka": impatient(settings.kafka)})
    broker_watch = BrokerWatch(quick, held, interval_s)
    worker_watch = WorkerWatch(urls, interval_s, settings.metrics.token.get_secret_value())

    def look() -> dict[str, Any]:
        about = {"app": settings.app.id, "brokers": settings.kafka.brokers, "held": held.summary(_N_RECENT)}
        return about | overview(broker_watch.view, worker_watch.view, held.records(), time.time())

    token = settings.console.token.get_secret_value()
    server = ConsoleServer((host, port), Api(look, Inspector(quick, held, items).report), token)
    logger.info("serving the console: address=http://%s:%d", host, server.port)
    stop.wait()
    server.close()
    worker_watch.close()
    broker_watch.close()


def impatient(kafka: Kafka) -> Kafka:
    """Whoever looks at a page wants to be told within seconds that the broker is away."""
    return kafka.model_copy(
        update={
            "start_deadline_s": min(kafka.start_deadline_s, 5.0),
            "request_timeout_s": min(kafka.request_timeout_s, 10.0),
        }
    )

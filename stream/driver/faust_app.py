"""The Faust app of a worker: our transport, table and assignor registered, every setting of Faust's in one place."""

from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, Final

import faust
from faust.stores import STORES
from faust.transport.drivers import TRANSPORTS
from mode.utils.queues import FlowControlEvent

from stream.driver.credentials import credentials
from stream.partition.ownership import Ownership
from stream.settings import Settings

TRANSPORT: Final = "lurm"
STORE: Final = "lurmbags"
# aiokafka leaves the group when nothing is fetched for this long, but that may be meant: events wait for encoding. The
# watchdog sees to the rest.
_POLL_INTERVAL_S: Final = 7 * 86_400.0
# Added partitions are noticed this soon: producers, who look every five minutes, should not send users there before.
_METADATA_AGE_MS: Final = 10_000


class FlowControl(FlowControlEvent):  # type: ignore[misc]
    """Faust's switch of its queues, which empties them when it is turned on: here only if it was off.

    A recovery turns it on several times, when changelog batches wait already: a standby would go on without them.
    """

    def resume(self) -> None:
        """Turn it on."""
        if not self.is_active():
            super().resume()


class LurmApp(faust.App):
    """A Faust app that carries what our driver and store need."""

    ownership: Ownership
    accept_data_loss: bool
    buffer_bytes: int
    epoch: int
    early: tuple[Callable[[], Coroutine[Any, Any, None]], ...]

    @cached_property
    def flow_control(self) -> FlowControl:
        """Made on first use, as in Faust."""
        return FlowControl()

    async def on_start(self) -> None:
        """Begin to look around before the first recovery, when Faust's own tasks do not run yet."""
        await super().on_start()
        for task in self.early:
            self.add_future(task())


def faust_app(settings: Settings, ownership: Ownership) -> LurmApp:
    """Faust's app for these settings, with what our parts of it need."""
    TRANSPORTS.aliases[TRANSPORT] = "stream.driver.transport:Transport"
    STORES.aliases[STORE] = "stream.driver.table:BagTable"
    kafka = settings.kafka
    ownership.folder.mkdir(parents=True, exist_ok=True)
    app = LurmApp(
        settings.app.id,
        broker=[f"{TRANSPORT}://{broker.strip()}" for broker in kafka.brokers.split(",")],
        broker_credentials=credentials(kafka),
        store=f"{STORE}://",
        PartitionAssignor="stream.driver.assignor:PartitionAssignor",
        TableManager="stream.driver.table:TableManager",
        recovery_consistency_check=False,  # ours is in that manager
        datadir=str(ownership.folder / "faust"),
        web_enabled=False,
        topic_partitions=settings.topics.partitions,
        topic_replication_factor=max(settings.topics.replication, 1),
        topic_disable_leader=True,
        table_standby_replicas=settings.state.standbys,
        consumer_group_instance_id=settings.worker.instance or None,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.fetch_bytes,
        consumer_metadata_max_age_ms=_METADATA_AGE_MS,
        broker_max_poll_records=kafka.poll_events,
        broker_max_poll_interval=_POLL_INTERVAL_S,
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.session_timeout_s / 10,
        broker_rebalance_timeout=kafka.rebalance_timeout_s,
        broker_request_timeout=kafka.request_timeout_s,
        producer_request_timeout=kafka.request_timeout_s,
        logging_config=None,
    )
    app.ownership = ownership
    app.buffer_bytes = kafka.buffer_bytes
    app.accept_data_loss = kafka.data_loss == "accept"
    app.epoch = settings.topics.epoch
    return app

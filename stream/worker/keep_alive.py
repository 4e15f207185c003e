"""Keeps the transactional ids of quiet partitions known: Kafka forgets one that was idle for long, 7 days by default.

Who comes with a forgotten id is refused. A producer made anew would do, but whoever makes one fences the present owner,
and a worker that stood still for a week may no longer be that: so the ids are used in time, by those who own them.
"""

import asyncio
from typing import Final

from kafka.admin import ConfigResource, ConfigResourceType

from stream.errors import LurmError
from stream.kafka.connection import admin
from stream.kafka.source import ask
from stream.partition.ownership import Ownership
from stream.partition.partition import Partition
from stream.settings import Settings

# Also how often an idle partition writes its record, so that its disks do not look as if they had been away.
IDLE_S_MAX: Final = 3_600.0
# An id is used several times before Kafka would forget it.
_SHARE: Final = 0.25
_EXPIRATION: Final = "transactional.id.expiration.ms"
# What Kafka does by itself.
_EXPIRATION_S: Final = 7 * 86_400.0


async def keep_alive(ownership: Ownership, settings: Settings) -> None:
    """Use what is idle, for ever."""
    idle_s = min(IDLE_S_MAX, _SHARE * await ask(expiration_s, settings))

    async def keep(partition: Partition) -> None:
        def is_owned() -> bool:
            return ownership.recovered and ownership.partitions.get(partition.number) is partition

        await partition.keep_alive(idle_s, is_owned)

    while True:
        await asyncio.sleep(idle_s / 2)
        await asyncio.gather(*map(keep, list(ownership.partitions.values())))


def expiration_s(settings: Settings) -> float:
    """How long the brokers remember a transactional id that nobody uses; Kafka's default where they do not say."""
    try:
        with admin(settings) as client:
            node = str(client.describe_cluster()["brokers"][0]["broker_id"])
            resource = ConfigResource(ConfigResourceType.BROKER, node)
            found = client.describe_configs([resource], config_filter="all")["broker"][node]
        return float(found[_EXPIRATION]["value"]) / 1000
    except (LurmError, KeyError, IndexError, TypeError, ValueError):
        return _EXPIRATION_S

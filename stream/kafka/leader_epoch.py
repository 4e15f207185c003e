"""Whether a topic has lost its end: its leader says up to where it has what an earlier leader wrote (KIP-320).

A leader that was elected though it lacked records, or that lost them with its disk, goes on from where its log ends.
What was read beyond is gone, and other records stand at those offsets. Only the epoch of the leader that wrote a batch,
which stands in it, tells. aiokafka has no such request.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Int64, Schema, String

from stream.kafka.connection import reading
from stream.records.arrival import UNKNOWN_EPOCH
from stream.settings import Kafka

_PAUSE_S: Final = 0.2
_NO_REPLICA: Final = -1


class _ResponseV3(Response):  # type: ignore[misc]
    API_KEY = 23
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("error_code", Int16), ("partition", Int32), ("leader_epoch", Int32), ("end_offset", Int64)),
                ),
            ),
        ),
    )


class _RequestV3(RequestStruct):  # type: ignore[misc]
    API_KEY = 23
    API_VERSION = 3
    RESPONSE_TYPE = _ResponseV3
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                ("partitions", Array(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32))),
            ),
        ),
    )


class _EndOfEpoch(Request[_RequestV3]):  # type: ignore[misc]
    API_KEY = 23

    def __init__(self, partition: TopicPartition, epoch: int) -> None:
        self._partition, self._epoch = partition, epoch

    def build(self, request_struct_class: type[_RequestV3]) -> _RequestV3:
        asked = (self._partition.partition, UNKNOWN_EPOCH, self._epoch)
        return request_struct_class(_NO_REPLICA, [(self._partition.topic, [asked])])


async def end_of_epoch(client: Any, partition: TopicPartition, epoch: int, deadline_s: float) -> int | None:
    """The offset behind the last record that the partition has of leaders up to this epoch; None: no broker says so.

    0 when the leader knows of no such epoch. **Raises** `KafkaError` when no leader answers for ``deadline_s``.
    """
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            return await _ask(client, partition, epoch)
        except (IncompatibleBrokerVersion, NotImplementedError):
            return None
        except KafkaError:
            if time.monotonic() > end_s:
                raise
            await client.force_metadata_update()
            await asyncio.sleep(_PAUSE_S)


async def ends_of_epochs(kafka: Kafka, topic: str, epochs: Mapping[int, int]) -> dict[int, int | None]:
    """As `end_of_epoch`, of these partitions, each with the epoch in question; where that is unknown, their ends.

    Nothing was read of a partition of which it is unknown, or nothing since workers note it.
    """
    partitions = [TopicPartition(topic, number) for number in epochs]
    async with reading(kafka, "read_committed", partitions) as consumer:
        client, deadline_s = consumer._client, kafka.request_timeout_s  # noqa: SLF001 - aiokafka has no such question
        kept = {each.partition: end for each, end in (await consumer.end_offsets(partitions)).items()}
        known = [each for each in partitions if epochs[each.partition] != UNKNOWN_EPOCH]
        asked = [end_of_epoch(client, each, epochs[each.partition], deadline_s) for each in known]
        return kept | dict(zip([each.partition for each in known], await asyncio.gather(*asked), strict=True))


async def _ask(client: Any, partition: TopicPartition, epoch: int) -> int:
    node = client.cluster.leader_for_partition(partition)
    if node in (None, UNKNOWN_EPOCH):
        raise LeaderNotAvailableError(f"partition={partition}")
    answer = await client.send(node, _EndOfEpoch(partition, epoch))
    ((_, ((error_code, _, _, end),)),) = answer.topics
    if error_code:
        raise for_code(error_code)(f"the end of leader epoch {epoch}: partition={partition}")
    return max(0, int(end))

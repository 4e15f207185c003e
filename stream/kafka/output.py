"""Where embeddings go now: the identity of their topic, which its name does not tell once it was made anew."""

import asyncio
import time
from typing import Final

from aiokafka.errors import KafkaError

from state.walk import Output
from stream.errors import OutputLost, permission_missing
from stream.kafka.topics import Problem, end_offsets, topic_id
from stream.kafka.watermark import newest_records
from stream.settings import Settings

# A broker may not know yet what another one has just made.
_ASKED: Final = 10
_PAUSE_S: Final = 0.5


def read_output(settings: Settings, model_id: str) -> Output:
    """Ask the broker. **Raises** `OutputLost` when the topic is gone, `BrokerUnavailable`."""
    topic = settings.topics.embeddings
    for _ in range(_ASKED):
        found = topic_id(settings, topic)
        if found is not None:
            return Output(model_id, topic, found)
        time.sleep(_PAUSE_S)
    raise OutputLost(
        f"the embeddings topic is gone: topic={topic}; a start of the worker makes it again and publishes everybody"
    )


def unpublished(settings: Settings) -> list[Problem]:
    """That the embeddings topic is not the one that was published to, unless a walk to it is under way."""
    topic, numbers = settings.topics.embeddings, end_offsets(settings, settings.changelog_topic)
    try:
        newest = asyncio.run(newest_records(settings.kafka, settings.changelog_topic, numbers))
    except KafkaError as error:
        raise permission_missing(error, "Read") or error from error
    known = [each.record.output if each.record.walk is None else each.record.walk.to for each in newest.values()]
    found = topic_id(settings, topic)
    if not found:
        return []
    others = sorted({each.topic_id for each in known if each.topic == topic} - {"", found})
    remedy = "it was made anew, and who does not change is missing in it: a worker publishes everybody again"
    return [Problem(topic, f"id {found}", f"id {other}", remedy) for other in others]

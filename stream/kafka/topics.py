"""Which topics there are and how each must be: made when missing, checked before anything is read or written.

All but the items topic have the same number of partitions, because a user's rows, embedding and dead letters live in
the partition of the user's events. Wrong topics lose data silently, so a worker refuses them.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from state.rows import row_bytes_max
from stream.errors import ConfigInvalid, LurmError, PermissionMissing
from stream.kafka.connection import admin, broker_errors, client_arguments, wait_for_partitions
from stream.kafka.permitted import NOT_AUTHORIZED, existing, forbidden
from stream.records.outgoing import RECORD_OVERHEAD_BYTES
from stream.settings import Settings

logger = logging.getLogger("lurm")

Policy = Literal["compact", "delete"]

# How long compaction keeps tombstones: a store that saw no changelog for longer must start from nothing, and whoever
# follows the embeddings and was away for longer keeps erased users.
DELETE_RETENTION_MS = 7 * 86_400_000
# Compaction leaves the newest segment alone; the default of 1 GiB would leave most of a partition uncompacted.
SEGMENT_BYTES = 64 << 20
# The largest batch that changelog and dead letters take where we make them; one row of 100,000 interests is 0.8 MB.
MESSAGE_BYTES_MAX = 8 << 20
# One batch of a transaction; a single larger row is a batch of its own.
BATCH_BYTES = 1 << 19
# What a dead letter says beside the event it repeats, at most.
DEAD_LETTER_BYTES = 4_096

# An erasure waits this long for a worker, and can be proved this long: its marker and answers stand in the topic.
CONTROL_RETENTION_DAYS = 30
# Old values of compacted topics are gone after about this long even where little is written.
COMPACTION_LAG_MS = 7 * 86_400_000

# What embeddings and control topics take where we make them, as Kafka's own default; a marker names a user, no more.
_SMALL_BYTES, _CONTROL_BYTES = 1 << 20, 16 << 10
_READ = frozenset({"Read"})
_MESSAGE_BYTES, _TOMBSTONES, _ERASURES = "max.message.bytes", "delete.retention.ms", "topics.erasures"
_EXISTS = 36
_WRONG_REQUEST = {17, 37, 38, 40, 44}  # topic name, partitions, replication factor, config, policy
_READY_MS = 30_000


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """How one topic must be; ``settings_key`` is where its name comes from.

    ``operations``: what a worker does to it beside describing it. ``own_partitions``: it is made with so many, and any
    number will do; 0: as many as the events topic has.
    """

    name: str
    settings_key: str
    policy: Policy
    configs: Mapping[str, str]
    message_bytes_min: int = 0
    own_partitions: int = 0
    operations: frozenset[str] = frozenset({"Read", "Write"})

    @property
    def is_changelog(self) -> bool:
        """Whether it holds what nothing else holds."""
        return self.policy == "compact" and self.settings_key == "app.id"

    def partitions(self, settings: Settings) -> int:
        """How many partitions it is made with."""
        return self.own_partitions or settings.topics.partitions


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a topic is not as planned; a worker starts beside one that is not ``fatal``, and says so."""

    topic: str
    found: str
    wanted: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"topic {self.topic}: found {self.found}, wanted {self.wanted}; {self.remedy}"


class TopicIdentity(NamedTuple):
    """What tells a topic from another of its name; the id is empty where the broker gives none."""

    topic_id: str
    n_partitions: int


@dataclass(frozen=True, slots=True)
class _Found:
    topic_id: str | None
    n_partitions: int
    configs: Mapping[str, str]
    forbidden: frozenset[str]

    @property
    def policies(self) -> set[str]:
        return {part.strip() for part in self.configs.get("cleanup.policy", "delete").split(",")}


def plan(settings: Settings, n_interests: int = 0, event_bytes_max: int = 0) -> tuple[TopicPlan, ...]:
    """The events topic, then the topics made when missing.

    The changelog takes a row of every interest, the dead letters an event as large as the events topic takes.

    **Raises** `ConfigInvalid` when two share a name.
    """
    largest = max(BATCH_BYTES, row_bytes_max(n_interests) + RECORD_OVERHEAD_BYTES)
    compacted = {
        "cleanup.policy": "compact",
        "segment.bytes": str(SEGMENT_BYTES),
        "max.compaction.lag.ms": str(COMPACTION_LAG_MS),
    }
    small = {_MESSAGE_BYTES: str(_SMALL_BYTES)}
    control = {"cleanup.policy": "delete", "retention.ms": str(CONTROL_RETENTION_DAYS * 86_400_000)} | small
    tombstones = {_TOMBSTONES: str(DELETE_RETENTION_MS)}
    changelog = tombstones | {_MESSAGE_BYTES: str(max(MESSAGE_BYTES_MAX, largest))}
    letter = event_bytes_max + DEAD_LETTER_BYTES
    dead_letters = {
        "cleanup.policy": "delete",
        _MESSAGE_BYTES: str(max(MESSAGE_BYTES_MAX, letter)),
        # A worker's clock that is behind must not have them deleted as old ones at once.
        "message.timestamp.type": "LogAppendTime",
    }
    topics = settings.topics
    plans = (
        TopicPlan(topics.events, "topics.events", "delete", {"cleanup.policy": "delete"}, operations=_READ),
        TopicPlan(topics.embeddings, "topics.embeddings", "compact", compacted | tombstones | small, BATCH_BYTES),
        TopicPlan(topics.dead_letters, "topics.dead_letters", "delete", dead_letters, letter),
        # Every worker reads all of it, and one partition has one order.
        TopicPlan(topics.items, "topics.items", "compact", compacted, own_partitions=1, operations=_READ),
        TopicPlan(settings.erasures_topic, _ERASURES, "compact", compacted),
        TopicPlan(settings.changelog_topic, "app.id", "compact", compacted | changelog, largest),
        TopicPlan(settings.control_topic, "app.id", "delete", control, _CONTROL_BYTES),
    )
    by_name: dict[str, TopicPlan] = {}
    for each in plans:
        other = by_name.setdefault(each.name, each)
        if other is not each:
            raise ConfigInvalid(f"two topics have one name: {other.settings_key} and {each.settings_key}={each.name}")
    return plans


def create_missing(settings: Settings, n_interests: int = 0) -> list[str]:
    """Make every topic that does not exist; the names of those made."""
    with admin(settings) as client:
        made = _create(client, settings, plan(settings)[:1])
        return made + _create(client, settings, _plan(client, settings, n_interests)[1:])


def check(settings: Settings, n_interests: int = 0) -> list[Problem]:
    """What is wrong with the topics; nothing is changed."""
    with admin(settings) as client:
        return _problems(client, settings, _plan(client, settings, n_interests))


def ensure(settings: Settings, n_interests: int = 0) -> None:
    """The topics as a worker needs them: made when missing, except the events topic, which is its producers'.

    **Raises** `ConfigInvalid` when the events topic is missing or a topic is not as planned.
    """
    with admin(settings) as client:
        events, *others = _plan(client, settings, n_interests)
        if not _describe(client, [events.name]):
            raise ConfigInvalid(f"the events topic does not exist: topic={events.name}; `lurm topics create` makes it")
        _create(client, settings, others)
        problems = _problems(client, settings, (events, *others))
        _refuse_forbidden(client, (events, *others))
    _refuse(problems)


def refuse_wrong(settings: Settings, topic: str) -> None:
    """**Raises** `ConfigInvalid` when no worker can start on what this topic is now."""
    _refuse([problem for problem in check(settings) if problem.topic == topic])


def _refuse(problems: Sequence[Problem]) -> None:
    for problem in (each for each in problems if not each.fatal):
        logger.warning("%s", problem)
    if fatal := [problem for problem in problems if problem.fatal]:
        more = f" (and {len(fatal) - 1} more: `lurm topics check`)" if len(fatal) > 1 else ""
        raise ConfigInvalid(f"{fatal[0]}{more}")


def ensure_control(settings: Settings) -> None:
    """The control topic, made unless a worker did, with as many partitions as the events topic has.

    **Raises** `ConfigInvalid` when there are no events, no state, or the topic is not as planned.
    """
    events, *_, control = plan(settings)
    with admin(settings) as client:
        found = _describe(client, [events.name, settings.changelog_topic])
        if len(found) < len({events.name, settings.changelog_topic}):
            raise ConfigInvalid(
                f"no such topics: {events.name}, {settings.changelog_topic}; has a worker run with these settings?"
            )
        n = {"partitions": found[events.name].n_partitions}
        actual = settings.model_copy(update={"topics": settings.topics.model_copy(update=n)})
        _create(client, actual, [control])
        problems = _problems(client, actual, (control,))
    if problems:
        raise ConfigInvalid(str(problems[0]))


def configs(settings: Settings, topic: str) -> Mapping[str, str]:
    """What the broker does with a topic's records, its defaults included; empty when it does not exist."""
    with admin(settings) as client:
        found = _describe(client, [topic]).get(topic)
    return found.configs if found else {}


def identity(settings: Settings, topic: str) -> TopicIdentity | None:
    """Which topic it is and how many partitions it has; None: no topic."""
    with admin(settings) as client:
        found = _describe(client, [topic]).get(topic)
    return TopicIdentity(found.topic_id or "", found.n_partitions) if found else None


def topic_id(settings: Settings, topic: str) -> str | None:
    """The id that tells a recreated topic from its predecessor: empty where the broker gives none, None: no topic."""
    return topic_ids(settings, (topic,)).get(topic)


def topic_ids(settings: Settings, topics: Sequence[str]) -> dict[str, str]:
    """The id of each of these topics that exists."""
    with admin(settings) as client:
        return {name: found["topic_id"] or "" for name, found in existing(client, list(topics)).items()}


def n_partitions(settings: Settings, topic: str, operation: str = "") -> int:
    """How many partitions a topic has; 0 when it does not exist.

    **Raises** `PermissionMissing` when we may not look, or not do this to it.
    """
    with admin(settings) as client:
        found = existing(client, [topic]).get(topic)
    if found and operation in forbidden(found):
        raise PermissionMissing(f"{operation} on topic {topic}")
    return len(found["partitions"]) if found else 0


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """The offset after the last record of each partition; empty when the topic does not exist."""
    return {number: end for number, (_, end) in offset_ranges(settings, topic).items()}


def offset_ranges(settings: Settings, topic: str) -> dict[int, tuple[int, int]]:
    """The first offset and the one after the last of each partition; empty when the topic does not exist."""
    partitions = [TopicPartition(topic, partition) for partition in range(n_partitions(settings, topic))]
    if not partitions:
        return {}
    with broker_errors(settings.kafka), closing(KafkaConsumer(**client_arguments(settings.kafka))) as consumer:
        wait_for_partitions(consumer, partitions, settings.kafka)
        starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    return {each.partition: (starts[each], ends[each]) for each in partitions}


def message_bytes_max(settings: Settings, topic: str) -> int:
    """The largest batch that a topic takes; what we would plan where the broker does not say."""
    return int(configs(settings, topic).get(_MESSAGE_BYTES, MESSAGE_BYTES_MAX))


def _plan(client: KafkaAdminClient, settings: Settings, n_interests: int) -> tuple[TopicPlan, ...]:
    """The plan for the events topic that there is."""
    events = _describe(client, [settings.topics.events]).get(settings.topics.events)
    return plan(settings, n_interests, 0 if events is None else int(events.configs.get(_MESSAGE_BYTES, 0)))


def _create(client: KafkaAdminClient, settings: Settings, plans: tuple[TopicPlan, ...] | list[TopicPlan]) -> list[str]:
    existing = _describe(client, [each.name for each in plans])
    missing = [each for each in plans if each.name not in existing]
    if not missing:
        return []
    wanted = {
        each.name: {
            "num_partitions": each.partitions(settings),
            "replication_factor": settings.topics.replication,
            "configs": dict(each.configs),
        }
        for each in missing
    }
    answer = client.create_topics(wanted, raise_errors=False)
    made = [_made(topic) for topic in answer["topics"]]
    client.wait_for_topics(list(wanted), timeout_ms=_READY_MS)
    return [name for name in made if name is not None]


def _made(topic: Mapping[str, Any]) -> str | None:
    """The name, or None when another process made it at the same moment. **Raises** when the broker refused."""
    code, name = topic["error_code"], str(topic["name"])
    if code in (0, _EXISTS):
        return name if code == 0 else None
    if code == NOT_AUTHORIZED:
        raise PermissionMissing(f"Create on topic {name}")
    error = ConfigInvalid if code in _WRONG_REQUEST else LurmError
    reason = topic.get("error_message") or f"error code {code}"
    raise error(f"the broker did not make the topic: {reason} topic={name}; see the settings topics.*")


def _refuse_forbidden(client: KafkaAdminClient, plans: tuple[TopicPlan, ...]) -> None:
    """**Raises** `PermissionMissing` for what a worker may not do to the topics."""
    found = _describe(client, [each.name for each in plans])
    missing = [
        f"{operation} on topic {each.name}"
        for each in plans
        for operation in sorted(each.operations & found[each.name].forbidden)
    ]
    if missing:
        raise PermissionMissing(*missing)


def _problems(client: KafkaAdminClient, settings: Settings, plans: tuple[TopicPlan, ...]) -> list[Problem]:
    found = _describe(client, [each.name for each in plans])
    problems = []
    for each in plans:
        topic, wanted = found.get(each.name), each.partitions(settings)
        if topic is None:
            problems.append(
                Problem(each.name, "no such topic", f"{wanted} partitions", "`lurm topics create` makes it")
            )
            continue
        # Which partition an erasure is of stands fast, so more of them, as of an events topic before, do no harm.
        is_enough = topic.n_partitions >= wanted if each.settings_key == _ERASURES else topic.n_partitions == wanted
        if not is_enough and not each.own_partitions:
            problems.append(_wrong_partitions(each, topic.n_partitions, wanted))
        problems.extend(_wrong_configs(each, topic))
    return problems


def _wrong_partitions(each: TopicPlan, found: int, wanted: int) -> Problem:
    if each.settings_key == "topics.events":
        remedy = (
            f"set LURM_TOPICS__PARTITIONS={found} for a new state, or use another events topic; "
            "if partitions were added, `lurm repartition`"
        )
    elif each.settings_key == _ERASURES:
        remedy = f"`kafka-topics.sh --alter --topic {each.name} --partitions {wanted}`"
    elif each.is_changelog:
        remedy = (
            f"use the events topic it belongs to, `lurm repartition`, or, for a new state, another {each.settings_key}"
        )
    else:
        remedy = f"delete the topic or choose another {each.settings_key}: it must match the events topic"
    return Problem(each.name, f"{found} partitions", f"{wanted} partitions", remedy)


def _wrong_configs(each: TopicPlan, topic: _Found) -> list[Problem]:
    policy = ",".join(sorted(topic.policies))
    # An embeddings topic may also expire inactive users; a changelog that does forgets rows, and erasures return.
    is_for_ever = each.is_changelog or each.settings_key == _ERASURES
    right = topic.policies == {each.policy} if is_for_ever else each.policy in topic.policies
    if each.policy == "delete":
        right = "compact" not in topic.policies
    problems = []
    if not right:
        problems.append(_wrong_config(each, "cleanup.policy", policy))
    kept = int(topic.configs.get(_TOMBSTONES, DELETE_RETENTION_MS))
    if _TOMBSTONES in each.configs and kept < DELETE_RETENTION_MS:
        problems.append(replace(_wrong_config(each, _TOMBSTONES, str(kept)), fatal=each.is_changelog))
    taken = int(topic.configs.get(_MESSAGE_BYTES, each.message_bytes_min))
    if taken < each.message_bytes_min:
        problems.append(_wrong_config(each, _MESSAGE_BYTES, str(taken)))
    return problems


def _wrong_config(each: TopicPlan, key: str, found: str) -> Problem:
    wanted = f"{key}={each.configs[key]}"
    remedy = f"`kafka-configs.sh --alter --entity-type topics --entity-name {each.name} --add-config {wanted}`"
    return Problem(each.name, f"{key}={found}", wanted, remedy)


def _describe(client: KafkaAdminClient, names: list[str]) -> dict[str, _Found]:
    """The topics that exist. **Raises** `PermissionMissing` when we may not look."""
    topics = existing(client, names)
    if hidden := [name for name, topic in topics.items() if "DescribeConfigs" in forbidden(topic)]:
        raise PermissionMissing(*(f"DescribeConfigs on topic {name}" for name in hidden))
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    configs = client.describe_configs(resources, config_filter="all")["topic"]
    return {
        name: _Found(
            topic["topic_id"],
            len(topic["partitions"]),
            {key: entry["value"] for key, entry in configs.get(name, {}).items()},
            forbidden(topic),
        )
        for name, topic in topics.items()
    }

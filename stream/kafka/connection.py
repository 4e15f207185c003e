"""How the broker is reached: client arguments from the settings, deadlines, and errors an operator can act on.

The tools use kafka-python, the worker and `lurm produce` aiokafka. No client creates topics by asking for them, also
where brokers would make what is asked for: retention would delete what such a topic holds.
"""

import asyncio
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any

import aiokafka.client
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
from aiokafka.errors import KafkaError as AiokafkaError
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.metadata import MetadataRequest
from kafka import KafkaAdminClient
from kafka.errors import (
    InvalidTimestampError,
    KafkaError,
    RetriableError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
)

import stream.kafka.batches.lenient  # noqa: F401 - changes how kafka-python reads
from stream.errors import BrokerUnavailable, ConfigInvalid, LurmError, TimeRefused, permission_missing
from stream.kafka.clock import Clock
from stream.kafka.fetcher import broker_ms
from stream.kafka.security import OAUTHBEARER, aiokafka_security, kafka_python_security
from stream.settings import Kafka, Settings

logger = logging.getLogger("lurm")

# A name, an IPv4 address, or an IPv6 address in brackets; then the port.
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:;,\[\]]+):\d{1,5}")
_ATTEMPT_S = 5.0
_CLOSE_S = 2.0
_REFUSED = (SaslAuthenticationFailed, SaslAuthenticationFailedError, UnsupportedSaslMechanismError)
_PAUSE_S = 0.2
# Who waits for a broker is told so after this long.
_SILENT_S = 3.0
_FETCH_WAIT_MS = 500
# How long a broker may keep a fetch that finds nothing: whatever else its connection asks for waits as long.
SHORT_WAIT_MS = 100
# After what the broker refuses, such as a topic we may no longer read.
_REFUSED_PAUSE_S = 5.0

# aiokafka's clients ask by this name, and offer no other way to say it.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


def client_arguments(kafka: Kafka, client_id: str = "lurm") -> dict[str, Any]:
    """Arguments that every kafka-python client takes."""
    return {
        "bootstrap_servers": bootstrap(kafka.brokers),
        "client_id": client_id,
        "bootstrap_timeout_ms": int(kafka.start_deadline_s * 1000),
        "request_timeout_ms": int(kafka.request_timeout_s * 1000),
        "reconnect_backoff_max_ms": 1_000,
        **kafka_python_security(kafka),
    }


def impatient(settings: Settings, seconds: float) -> Settings:
    """The settings for a question that is asked again anyway: its thread must not hold up the worker's end."""
    deadline = {"start_deadline_s": min(seconds, settings.kafka.start_deadline_s)}
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update=deadline)})


def aiokafka_arguments(kafka: Kafka) -> dict[str, Any]:
    """Arguments that every aiokafka client takes."""
    return {
        "bootstrap_servers": bootstrap(kafka.brokers),
        "request_timeout_ms": int(kafka.request_timeout_s * 1000),
        **aiokafka_security(kafka),
    }


@asynccontextmanager
async def reading(kafka: Kafka, isolation_level: str, partitions: Sequence[TopicPartition]) -> AsyncIterator[Any]:
    """An aiokafka consumer of these partitions, without a group, for `fetched_between`: before it, none is fetched.

    They are assigned once, and first of all: aiokafka's ``stop`` never returns when it comes right after another
    assignment, and asked about topics that it does not know it looks them up one by one, at 0.1 s each.
    """
    consumer = AIOKafkaConsumer(
        **aiokafka_arguments(kafka),
        isolation_level=isolation_level,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=SHORT_WAIT_MS,
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        consumer.pause(*partitions)
        yield consumer
    finally:
        await consumer.stop()


def check_fetching(consumer: Any) -> None:
    """Ask an aiokafka consumer whether it still fetches: when that task has died, it only ever answers with nothing.

    **Raises** ``RuntimeError``, since no answer of the broker's says this.
    """
    task = consumer._fetcher.error_future  # noqa: SLF001 - aiokafka offers no other way to see it
    if task.done() and not consumer._closed:  # noqa: SLF001
        cause = None if task.cancelled() else task.exception()
        raise RuntimeError(f"the fetcher has ended: {cause}") from cause


async def fetch(consumer: Any, max_records: int | None = None) -> dict[Any, list[Any]]:
    """What an aiokafka consumer has within half a second. **Raises** `AiokafkaError`, and as `check_fetching`."""
    check_fetching(consumer)
    records: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=_FETCH_WAIT_MS, max_records=max_records)
    return records


async def fetched_between(
    consumer: Any, spans: Mapping[TopicPartition, tuple[int, int]], clock: Clock | None = None
) -> AsyncIterator[tuple[TopicPartition, Any]]:
    """The records of paused partitions from an offset to before another, each with its partition; then they are paused.

    All side by side: in turn, each would wait until the broker gives up waiting for more of the one before. The clock
    is told what brokers wrote there.
    """
    unread = dict(spans)
    for partition, (start, _) in spans.items():
        consumer.seek(partition, start)
    consumer.resume(*spans)
    while True:
        for partition in [each for each, (_, end) in unread.items() if await consumer.position(each) >= end]:
            consumer.pause(partition)
            del unread[partition]
        if not unread:
            return
        fetched = await fetch(consumer)
        if clock is not None:
            _tell(clock, consumer, spans)
        for partition, records in fetched.items():
            for record in records:
                yield partition, record


def _tell(clock: Clock, consumer: Any, partitions: Iterable[TopicPartition]) -> None:
    """Tell the clock what brokers wrote into what was read of these partitions."""
    assignment = consumer._subscription.subscription.assignment  # noqa: SLF001 - as above
    for partition in partitions:
        clock.broker_wrote(broker_ms(assignment.state_value(partition)))


async def fetch_or_wait(consumer: Any, what: str, max_records: int | None = None) -> dict[Any, list[Any]]:
    """As `fetch`; nothing, after a warning and a pause, where the broker refuses. **Raises** as `check_fetching`."""
    try:
        return await fetch(consumer, max_records)
    except AiokafkaError as error:
        logger.warning("%s cannot be read now: %s", what, error)
        await asyncio.sleep(_REFUSED_PAUSE_S)
        return {}


def consumer_arguments(kafka: Kafka, client_id: str = "lurm") -> dict[str, Any]:
    """Arguments of a kafka-python consumer that reads committed records only.

    Checksums are left to TCP and the broker: in plain Python they would halve the speed and more (4 MB/s).
    """
    return client_arguments(kafka, client_id) | {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "allow_auto_create_topics": False,
        "check_crcs": False,
        # The embedded broker answers with all it has, whatever was asked for.
        "receive_message_max_bytes": 2**31 - 1,
        "max_partition_fetch_bytes": kafka.fetch_bytes,
        "max_poll_records": kafka.poll_events,
    }


def bootstrap(brokers: str) -> list[str]:
    """The addresses of ``host:port,host:port``. **Raises** `ConfigInvalid`."""
    addresses = [address.strip() for address in brokers.split(",") if address.strip()]
    if not addresses or not all(map(_ADDRESS.fullmatch, addresses)):
        raise ConfigInvalid(f"setting kafka.brokers: host:port,host:port is wanted, found {brokers!r}")
    return addresses


@contextmanager
def admin(settings: Settings) -> Iterator[KafkaAdminClient]:
    """An admin client of a broker that answers. **Raises** `BrokerUnavailable` after ``kafka.start_deadline_s``."""
    with closing(_connect(settings.kafka)) as client, broker_errors(settings.kafka):
        yield client


def wait_for_partitions(consumer: Any, partitions: Collection[Any], kafka: Kafka) -> None:
    """Return once a kafka-python consumer knows these partitions, which it answers questions about with a ``KeyError``.

    By itself it looks for new ones every five minutes. **Raises** `BrokerUnavailable` after ``kafka.start_deadline_s``.
    """
    deadline = time.monotonic() + kafka.start_deadline_s
    while unknown := sorted(each for each in partitions if each.partition not in _numbers(consumer, each.topic)):
        if time.monotonic() > deadline:
            topic, number = unknown[0]
            raise BrokerUnavailable(
                f"the broker does not know a partition: {topic=!s} partition={number} brokers={kafka.brokers}; is the "
                "topic being made anew?"
            )
        consumer.topics()  # asks the broker
        time.sleep(_PAUSE_S)


def _numbers(consumer: Any, topic: str) -> Collection[int]:
    return consumer.partitions_for_topic(topic) or ()


def wait_for_broker(settings: Settings) -> None:
    """Return once a broker answers. **Raises** `BrokerUnavailable` after ``kafka.start_deadline_s``."""
    with admin(settings):
        pass


@contextmanager
def broker_errors(kafka: Kafka, operation: str = "") -> Iterator[None]:
    """What kafka-python raises inside becomes one line for the operator; ``operation``: what is done to a topic there.

    **Raises** `BrokerUnavailable` when nobody answers in time, `LurmError` when the broker refuses.
    """
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        raise ConfigInvalid(f"a topic does not exist: {_first_line(error)}; `lurm topics check`") from error
    except InvalidTimestampError as error:
        raise TimeRefused(f"brokers={kafka.brokers}") from error
    except _REFUSED as error:
        raise _refused(kafka, error) from error
    except RetriableError as error:
        raise BrokerUnavailable(
            f"the broker stopped answering: {_first_line(error)} brokers={kafka.brokers}; "
            f"{unreachable(kafka) or 'is Kafka running?'}"
        ) from error
    except KafkaError as error:
        refused = LurmError(f"the broker refused: {_first_line(error)} brokers={kafka.brokers}")
        raise permission_missing(error, operation) or refused from error


def _connect(kafka: Kafka) -> KafkaAdminClient:
    start = time.monotonic()
    deadline, say_at = start + kafka.start_deadline_s, start + _SILENT_S
    arguments = client_arguments(kafka)
    while True:
        left_s = max(0.1, min(_ATTEMPT_S, deadline - time.monotonic()))
        arguments["bootstrap_timeout_ms"] = int(left_s * 1000)
        try:
            # kafka-python leaves sockets open when nobody listens, so that is found out first.
            host, port = _listening(bootstrap(kafka.brokers), left_s)
            if kafka.security_protocol != "PLAINTEXT":
                asyncio.run(_log_in(kafka, host, port, left_s))
            return KafkaAdminClient(**arguments)
        except ssl.SSLError as error:
            raise _untrusted(kafka, error) from error
        except _REFUSED as error:
            raise _refused(kafka, error) from error
        except (KafkaError, AiokafkaError, OSError) as error:
            if time.monotonic() + _PAUSE_S >= deadline:
                raise _unanswered(kafka) from error
        if time.monotonic() >= say_at:
            say_at = deadline
            logger.warning("no broker answers yet: brokers=%s, trying for %g s", kafka.brokers, kafka.start_deadline_s)
        time.sleep(_PAUSE_S)


async def _log_in(kafka: Kafka, host: str, port: int, timeout_s: float) -> None:
    """Connect once with aiokafka, which raises why it is refused; kafka-python logs it, and tries again."""
    limit = {"request_timeout_ms": int(timeout_s * 1000)}
    connection = AIOKafkaConnection(host, port, **aiokafka_security(kafka) | limit)
    try:
        await connection.connect()
        if kafka.sasl_mechanism == OAUTHBEARER:
            await _refuse_bad_token(connection)
    except AiokafkaError:
        await _close(connection)
        raise
    await _close(connection)


async def _refuse_bad_token(connection: Any) -> None:
    """Aiokafka takes the answer to a bad token for that to a good one: the next request tells."""
    with suppress(KafkaConnectionError):
        if not (await connection.send(ApiVersionRequest())).error_code:
            return
    raise SaslAuthenticationFailed("the broker does not take the token")


async def _close(connection: Any) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(connection.close(), _CLOSE_S)


def _untrusted(kafka: Kafka, error: ssl.SSLError) -> LurmError:
    why = getattr(error, "verify_message", None) or error.reason
    return LurmError(
        f"no trusted TLS connection to the broker: {why} brokers={kafka.brokers} "
        f"kafka.ssl_ca_file={kafka.ssl_ca_file or 'none'}; is it the CA of the broker's certificate?"
    )


def _refused(kafka: Kafka, error: Exception) -> LurmError:
    return LurmError(
        f"the broker refused our login: {_first_line(error)} brokers={kafka.brokers} "
        f"kafka.sasl_mechanism={kafka.sasl_mechanism} kafka.sasl_username={kafka.sasl_username or 'none'}; "
        "check user and password, or the token"
    )


def unreachable(kafka: Kafka) -> str:
    """Which address the broker gives to its clients that cannot be reached from here; empty where all can.

    A client asks the bootstrap address for all brokers once, and from then on talks to the addresses it was told.
    """
    try:
        host, port = _listening(bootstrap(kafka.brokers), _CLOSE_S)
        # In a thread of its own: whoever asks may have an event loop already.
        with ThreadPoolExecutor(1) as pool:
            addresses = pool.submit(asyncio.run, _advertised(kafka, host, port)).result()
        for advertised in addresses:
            try:
                _listening([advertised], _CLOSE_S)
            except OSError as error:
                return (
                    f"{host}:{port} answers and tells clients to come to {advertised}, which cannot be reached from "
                    f"here ({error}): see advertised.listeners of the brokers"
                )
    except (AiokafkaError, OSError):
        pass
    return ""


async def _advertised(kafka: Kafka, host: str, port: int) -> list[str]:
    connection = AIOKafkaConnection(host, port, **aiokafka_security(kafka) | {"request_timeout_ms": 2_000})
    try:
        await connection.connect()
        answer = await connection.send(MetadataRequest([]))
    finally:
        await _close(connection)
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for _, host, port, *_ in answer.brokers]


def _unanswered(kafka: Kafka) -> BrokerUnavailable:
    if named := unreachable(kafka):
        return BrokerUnavailable(f"no broker answered within {kafka.start_deadline_s:g} s: {named}")
    how = " ".join(filter(None, (kafka.security_protocol, kafka.sasl_mechanism)))
    return BrokerUnavailable(
        f"no broker answered within {kafka.start_deadline_s:g} s: brokers={kafka.brokers}; "
        f"is Kafka running, and does it speak {how} there? set LURM_KAFKA__BROKERS, LURM_KAFKA__SECURITY_PROTOCOL"
    )


def _listening(addresses: list[str], timeout_s: float) -> tuple[str, int]:
    """Host and port of the first of these addresses that accepts a connection. **Raises** `OSError` if none does."""
    for i, address in enumerate(addresses, start=1):
        host, _, port = address.rpartition(":")
        place = (host.strip("[]"), int(port))
        try:
            socket.create_connection(place, timeout_s).close()
        except (OSError, UnicodeError) as error:
            if i == len(addresses):
                raise OSError(str(error)) from error
        else:
            return place
    raise AssertionError("there is an address")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__

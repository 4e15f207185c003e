"""The settings: one frozen tree, from one TOML file, overridden by ``LURM_SECTION__KEY`` in the environment.

Every leaf carries its meaning and unit in its description; `reference` lists them all, so the page cannot go stale.
Refused: pydantic-settings, which takes names in lower case, its own arguments as keys of the file, and true for 1.
"""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from state.periods import format_scales, parse_scales
from state.rows import EPOCH_MAX
from stream import failpoints
from stream.errors import ConfigInvalid

ENV_PREFIX = "LURM_"
Placing = Literal["murmur2", "crc32", "fnv1a", "any"]
_BYTES_MAX = 1 << 44
# What a partition's second producer has between the application's id and its number.
EMBEDDINGS_SUFFIX = "-embeddings"
# Strict: true is no number.
Weight = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class Section(BaseModel):
    """A section of the settings: frozen, and it refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_guessed(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what the library would take for something else: an empty path for the current folder, true for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise PydanticCustomError("number", "a number is wanted, found {found}", {"found": str(value).lower()})
        if kind == Path | None and isinstance(value, str) and not value.strip():
            raise PydanticCustomError("path", "it is empty, which means the current folder: unset it, or name a path")
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "a NUL cannot be part of it")
        return value


class App(Section):
    """Who we are on the broker."""

    id: str = Field(
        "lurm",
        pattern=r"^[a-zA-Z0-9._-]{1,100}$",
        description="consumer group, and prefix of internal topics and transactional ids; not to end in -embeddings",
    )

    @field_validator("id")
    @classmethod
    def _of_nobody_else(cls, value: str) -> str:
        if value.endswith(EMBEDDINGS_SUFFIX):
            other = value.removesuffix(EMBEDDINGS_SUFFIX)
            message = "its transactional ids are those of the application {other}: they would end each other's work"
            raise PydanticCustomError("shared", message, {"other": other})
        return value


class Kafka(Section):
    """How to reach the broker, and how to prove who we are."""

    brokers: str = Field("127.0.0.1:9092", min_length=1, description="bootstrap servers, host:port,host:port")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="SSL: encrypted (TLS); SASL: we log in"
    )
    ssl_ca_file: Path | None = Field(None, description="PEM file of the certificates to trust; none: the system's")
    ssl_cert_file: Path | None = Field(None, description="PEM file of our own certificate, where the broker wants one")
    ssl_key_file: Path | None = Field(None, description="PEM file of its key; none: the certificate's file holds it")
    ssl_key_password: SecretStr = Field(SecretStr(""), description="password of an encrypted key")
    ssl_check_hostname: bool = Field(True, description="refuse a broker whose certificate names another host")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="how to log in"
    )
    sasl_username: str = Field("", description="user of PLAIN and SCRAM")
    sasl_password: SecretStr = Field(SecretStr(""), description="password of PLAIN and SCRAM")
    oauth_token_file: Path | None = Field(
        None, description="file that holds the token of OAUTHBEARER; read again at every connection"
    )
    start_deadline_s: float = Field(
        30.0, gt=0, le=86_400, description="how long to wait for a broker that does not answer"
    )
    session_timeout_s: float = Field(15.0, ge=1, le=30, description="a silent worker loses its partitions after this")
    rebalance_timeout_s: float = Field(
        60.0, ge=5, le=3_600, description="how long a rebalance waits for a worker to hand over"
    )
    request_timeout_s: float = Field(
        40.0, ge=5, le=3_600, description="deadline of one request; longer than the session timeout"
    )
    transaction_timeout_s: float = Field(30.0, ge=2, le=900, description="the broker aborts a transaction after this")
    fetch_bytes: int = Field(
        4 << 20,
        ge=1 << 16,
        lt=1 << 31,
        description="bytes fetched at most per partition and request, as sent; one is held ahead",
    )
    buffer_bytes: int = Field(
        128 << 20,
        ge=1 << 20,
        le=_BYTES_MAX,
        description="memory of fetched records; half for events, half for the changelog",
    )
    poll_events: int = Field(20_000, ge=1, le=10_000_000, description="events at most in one batch")
    data_loss: Literal["stop", "accept"] = Field(
        "stop", description="when the source no longer holds unread events: stop, or log, count and go on"
    )

    @field_validator("brokers")
    @classmethod
    def _no_gap(cls, value: str) -> str:
        if not all(part.strip() for part in value.split(",")):
            raise PydanticCustomError(
                "gap", "host:port,host:port is wanted, without an empty part, found {found}", {"found": repr(value)}
            )
        return value

    @property
    def encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self.security_protocol.endswith("SSL")

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        with_sasl = self.security_protocol.startswith("SASL")
        login = {"oauth_token_file"} if self.sasl_mechanism == "OAUTHBEARER" else {"sasl_username", "sasl_password"}
        wanted = {"sasl_mechanism"} | (login if self.sasl_mechanism else set()) if with_sasl else set()
        allowed = wanted | (_TLS if self.encrypted else set())
        if self.ssl_cert_file is None:
            allowed -= _OF_CERTIFICATE
        given = {name for name in _TLS | _SASL if getattr(self, name) not in (None, "", SecretStr(""))}
        if missing := sorted(wanted - given):
            raise _contradiction(f"kafka.{missing[0]} is wanted with", self)
        if surplus := sorted(given - allowed):
            raise _contradiction(f"kafka.{surplus[0]} has no use with", self)
        if not (self.encrypted or self.ssl_check_hostname):
            raise _contradiction("kafka.ssl_check_hostname has no use with", self)
        return self


_OF_CERTIFICATE = {"ssl_key_file", "ssl_key_password"}
_TLS = {"ssl_ca_file", "ssl_cert_file", *_OF_CERTIFICATE}
_SASL = {"sasl_mechanism", "sasl_username", "sasl_password", "oauth_token_file"}


def _contradiction(what: str, kafka: Kafka) -> PydanticCustomError:
    names = ("security_protocol", "sasl_mechanism", "ssl_cert_file")
    facts = " ".join(f"kafka.{name}={getattr(kafka, name) or 'none'}" for name in names)
    return PydanticCustomError("contradiction", "{message}", {"message": f"{what} {facts}"})


class Topics(Section):
    """Which topics to use, and how to make them."""

    events: str = Field("events", min_length=1, max_length=249, description="behaviour events, keyed by user_id")
    embeddings: str = Field("embeddings", min_length=1, max_length=249, description="user embeddings, compacted")
    dead_letters: str = Field("dead-letters", min_length=1, max_length=249, description="rejected events, unchanged")
    items: str = Field("items", min_length=1, max_length=249, description="new items, compacted, keyed by item_id")
    erasures: str = Field(
        "",
        max_length=249,
        description="hashes of erased users, compacted, one topic for all applications that read these events; "
        "empty: the events topic's name with -erasures",
    )
    partitions: int = Field(4, ge=1, le=10_000, description="partitions of every topic but items; all must agree")
    partitioner: Placing = Field("murmur2", description="how producers place users, see README; any: do not look")
    epoch: int = Field(0, ge=0, le=EPOCH_MAX, description="raise it when the events topic is a new one or lost its end")
    replication: int = Field(-1, ge=-1, description="replicas of topics we make; -1: the broker's default")


class Events(Section):
    """Which events are acceptable."""

    weights: dict[str, Weight] = Field(default_factory=dict, description="weight of each event type; others weigh 1")
    value_bytes_max: int = Field(65_536, ge=64, description="a larger event is rejected: too_large")
    future_s_max: int = Field(86_400, ge=0, description="an event further ahead of the clock is rejected: future")
    age_s_max: int = Field(-1, ge=-1, description="older is too_old; 0: never; -1: 50 years, of day alone 10")


class State(Section):
    """Where the state lives, and how much memory it takes."""

    dir: Path | None = Field(
        None, description="folder of the partitions' databases, one per worker; needed by `worker`"
    )
    scales: str = Field("", description="calendar scales, e.g. day,month; empty: the bundle's")
    cache_bytes: int = Field(
        256 << 20,
        ge=8 << 20,
        le=_BYTES_MAX,
        description="RocksDB block cache, of all partitions; soft: what a read pins may exceed it",
    )
    memtable_bytes: int = Field(
        128 << 20,
        ge=8 << 20,
        le=_BYTES_MAX,
        description="RocksDB memtables of all partitions; soft: flushed early, never stalled",
    )
    marks_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        le=_BYTES_MAX,
        description="memory of dirty marks; beyond it events wait until encoding has caught up",
    )
    open_files_max: int = Field(
        512,
        ge=32,
        le=1 << 20,
        description="open files at most per partition; fewer where the limit of the process asks for it",
    )
    standbys: int = Field(0, ge=0, le=5, description="other workers that keep a copy of each partition")

    @field_validator("scales")
    @classmethod
    def _known_scales(cls, value: str) -> str:
        return format_scales(parse_scales(value)) if value else value


class Model(Section):
    """Which model encodes."""

    bundle: Path | None = Field(None, description="folder made by `lurm train`")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")


class Encode(Section):
    """When and how changed users are encoded again."""

    interval_s: float = Field(1.0, ge=0.1, le=86_400, description="pause between the starts of two encode cycles")
    batch_users: int = Field(1024, ge=1, le=100_000, description="users encoded at once")
    dtype: Literal["float32", "float16"] = Field("float32", description="number format of published vectors")


class Metrics(Section):
    """Where metrics and health are served."""

    host: str = Field("127.0.0.1", min_length=1, description="address to bind; 0.0.0.0: every one of this machine")
    port: int = Field(9108, ge=0, le=65_535, description="port of /metrics, /livez and /readyz; 0: any free one")
    token: SecretStr = Field(SecretStr(""), description="bearer token that /metrics asks for; empty: none")


class Console(Section):
    """Who may look at users."""

    token: SecretStr = Field(
        SecretStr(""), description="password that the console asks for, with any user name; empty: none"
    )


class Worker(Section):
    """How this worker runs."""

    instance: str = Field("", max_length=200, description="static member id; keep it across restarts, one per worker")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line logged")
    stuck_s_max: float = Field(60.0, ge=5, le=86_400, description="the watchdog ends a worker without progress so long")
    stop_s_max: float = Field(
        25.0,
        ge=5,
        le=86_400,
        description="and one that is told to stop and has not ended by then; less than the grace of its supervisor",
    )


class Settings(Section):
    """All settings."""

    app: App = App()
    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    events: Events = Events()
    state: State = State()
    model: Model = Model()
    encode: Encode = Encode()
    metrics: Metrics = Metrics()
    console: Console = Console()
    worker: Worker = Worker()

    @property
    def changelog_topic(self) -> str:
        """The compacted topic that holds every row."""
        return f"{self.app.id}-bags-changelog"

    @property
    def control_topic(self) -> str:
        """The topic through which users are erased."""
        return f"{self.app.id}-control"

    @property
    def erasures_topic(self) -> str:
        """The compacted topic that remembers who was erased, for every application that reads these events."""
        return self.topics.erasures or f"{self.topics.events}-erasures"


class Leaf(NamedTuple):
    """One setting of the reference."""

    name: str
    variable: str
    kind: str
    default: str
    meaning: str


def load(config: Path | None = None) -> Settings:
    """The settings from a TOML file (if any) and the environment.

    **Raises** `ConfigInvalid` that names each wrong key or value.
    """
    _refuse_unknown_variables()
    tree = _read(config)
    for leaf in reference():
        if leaf.variable in os.environ:
            _put(tree, leaf, os.environ[leaf.variable])
    return validated(tree)


def _put(tree: dict[str, Any], leaf: Leaf, text: str) -> None:
    """Put a variable over what the file says; one of a table's entries, written as JSON, over those of their names."""
    section, key = leaf.name.split(".")
    table = tree.setdefault(section, {})
    if not isinstance(table, dict):
        return
    if not leaf.kind.startswith("dict"):
        table[key] = text
        return
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"setting {leaf.name}: no JSON: {error}; {leaf.variable}={text}") from error
    before = table.get(key, {})
    table[key] = before | entries if isinstance(before, dict) and isinstance(entries, dict) else entries


def validated(values: Mapping[str, Any]) -> Settings:
    """The settings with these values. **Raises** `ConfigInvalid` that names each wrong key or value."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigInvalid(
            f"setting {where}: {_lower_first(first['msg'])}{more}; `lurm settings` lists every setting"
        ) from error


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return tomllib.loads(config.read_text(encoding="utf-8-sig"))  # some editors mark it
    except OSError as error:
        raise ConfigInvalid(f"cannot read the settings file: {error.strerror} file={config}") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, too long a number, too deep
        raise ConfigInvalid(f"the settings file is no TOML: {error} file={config}") from error


def _refuse_unknown_variables() -> None:
    """In lower case too: whoever writes them so means a setting."""
    known = {leaf.variable for leaf in reference()} | {failpoints.VARIABLE}
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name not in known:
            raise ConfigInvalid(f"unknown setting {name} in the environment; `lurm settings` lists every setting")


def reference() -> Iterator[Leaf]:
    """Every setting there is, in the order of the tree."""
    for section, field in Settings.model_fields.items():
        assert isinstance(field.default, Section)  # noqa: S101 - true by the class above; tells the type checker
        for key, leaf in type(field.default).model_fields.items():
            default = leaf.get_default(call_default_factory=True)
            kind = getattr(leaf.annotation, "__name__", str(leaf.annotation)).replace("typing.", "")
            yield Leaf(
                f"{section}.{key}",
                f"{ENV_PREFIX}{section}__{key}".upper(),
                kind,
                "" if default is None else str(default),
                leaf.description or "",
            )

"""How our clients prove who they are to the broker, and whom they trust: the arguments of each client library.

Certificates are read when a client is made, a token at every connection.
"""

import logging
import ssl
from pathlib import Path
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider
from kafka.net.sasl.oauth import AbstractTokenProvider as BlockingTokenProvider

from stream.errors import ConfigInvalid
from stream.settings import Kafka

OAUTHBEARER: Final = "OAUTHBEARER"
# At DEBUG these write their configuration and every request: passwords and tokens as they are.
_TALKATIVE: Final = ("aiokafka.conn", "kafka.admin.client", "kafka.net.connection", "kafka.protocol.parser")


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Gives aiokafka the token that the file holds now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """The token. **Raises** `OSError`, after which the client tries to connect again."""
        return _read_token(self._path)


class BlockingTokenFile(BlockingTokenProvider):  # type: ignore[misc]
    """Gives kafka-python the token that the file holds now."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def token(self) -> str:
        """As `TokenFile.token`."""
        return _read_token(self._path)


def aiokafka_security(kafka: Kafka) -> dict[str, Any]:
    """Arguments of every aiokafka client. **Raises** `ConfigInvalid` when a file cannot be used."""
    return _arguments(kafka, TokenFile)


def kafka_python_security(kafka: Kafka) -> dict[str, Any]:
    """Arguments of every kafka-python client. **Raises** `ConfigInvalid` when a file cannot be used."""
    return _arguments(kafka, BlockingTokenFile)


def ssl_context(kafka: Kafka) -> ssl.SSLContext | None:
    """Whom to trust and which certificate to show; None without TLS. **Raises** `ConfigInvalid`."""
    if not kafka.encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_ca_file)
    except OSError as error:
        raise _unusable("the certificates to trust", "ssl_ca_file", kafka.ssl_ca_file, error) from error
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_cert_file is not None:
        password = kafka.ssl_key_password.get_secret_value()
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(kafka.ssl_cert_file, kafka.ssl_key_file, lambda: password)
        except OSError as error:
            raise _unusable("our certificate and its key", "ssl_cert_file", kafka.ssl_cert_file, error) from error
    return context


def _arguments(kafka: Kafka, token_file: type[TokenFile | BlockingTokenFile]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"security_protocol": kafka.security_protocol, "ssl_context": ssl_context(kafka)}
    if kafka.sasl_mechanism is None:
        return arguments
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_no_debug)
    arguments["sasl_mechanism"] = kafka.sasl_mechanism
    if kafka.oauth_token_file is not None:
        _refuse_no_token(kafka.oauth_token_file)
        return arguments | {"sasl_oauth_token_provider": token_file(kafka.oauth_token_file)}
    return arguments | {
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": kafka.sasl_password.get_secret_value(),
    }


def _no_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _read_token(path: Path) -> str:
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if not token or not token.isprintable() or " " in token:
        raise OSError(f"the file holds no token: file={path}")
    return token


def _refuse_no_token(path: Path) -> None:
    try:
        _read_token(path)
    except OSError as error:
        raise _unusable("the token", "oauth_token_file", path, error) from error


def _unusable(what: str, setting: str, path: Path | None, error: OSError) -> ConfigInvalid:
    why = getattr(error, "reason", None) or error.strerror or str(error)
    return ConfigInvalid(f"cannot use {what}: {why} kafka.{setting}={path}")

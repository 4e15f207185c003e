"""Metrics and health over HTTP, on a thread of their own: they answer while the event loop is busy.

``/metrics`` Prometheus text, to who shows the token if there is one; ``/livez`` 503 only when a restart helps;
``/readyz`` 503 while partitions are being recovered and once the worker is told to stop, 200 through a rebalance that
brings it nothing new.
"""

import hmac
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from stream.errors import ConfigInvalid

Check = Callable[[], bool]


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Scrapes are not worth a log line each."""


class HealthServer:
    """Serves one worker's registry and two checks until closed; the registry only to who has the token, if any."""

    def __init__(
        self, address: tuple[str, int], registry: CollectorRegistry, live: Check, ready: Check, token: str = ""
    ) -> None:
        self._metrics = make_wsgi_app(registry)
        self._authorization = f"Bearer {token}".encode() if token else None
        self._checks = {"/livez": live, "/readyz": ready}
        try:
            self._server: WSGIServer = make_server(*address, self._answer, handler_class=_Silent)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot serve metrics: {error.strerror} address={address[0]}:{address[1]}; set LURM_METRICS__PORT"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="lurm-health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is served, also when any free one was asked for."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics" and not self._may_read(environ):
            challenge = [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")]
            start_response("401 Unauthorized", challenge)
            return [b"a bearer token is wanted: metrics.token\n"]
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        check = self._checks.get(path)
        status = HTTPStatus.NOT_FOUND
        if check is not None:
            status = HTTPStatus.OK if check() else HTTPStatus.SERVICE_UNAVAILABLE
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
        return [f"{status.phrase.lower()}\n".encode()]

    def _may_read(self, environ: dict[str, Any]) -> bool:
        shown = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")  # its bytes as they came
        return self._authorization is None or hmac.compare_digest(shown, self._authorization)

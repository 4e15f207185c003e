"""Metrics and health over HTTP, on threads of their own: they answer while the event loop is busy.

``/metrics`` Prometheus text, to who shows the token if there is one; ``/livez`` 503 only when a restart helps;
``/readyz`` 503 while partitions are being recovered and once the worker is told to stop, 200 through a rebalance that
brings it nothing new. The two checks are answered before everything else.
"""

import hmac
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app

from stream.web import WebServer

Check = Callable[[], bool]


class HealthServer(WebServer):
    """Serves one worker's registry and two checks until closed; the registry only to who has the token, if any."""

    def __init__(
        self,
        address: tuple[str, int],
        registry: CollectorRegistry,
        live: Check,
        ready: Check,
        token: str = "",
        hint: str = "set LURM_METRICS__PORT",
    ) -> None:
        self._metrics = make_wsgi_app(registry)
        self._authorization = f"Bearer {token}".encode() if token else None
        self._checks = {"/livez": live, "/readyz": ready}
        super().__init__(address, self._answer, "metrics", hint, frozenset(self._checks))

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

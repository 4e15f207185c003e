"""HTTP for a few visitors, each on a thread of its own: who connects and says nothing keeps nobody waiting.

Invariant: neither answering others nor closing waits for a visitor.
"""

import sys
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import WSGIApplication

from stream.errors import ConfigInvalid


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds of silence

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """A probe or a page that asks every few seconds is not worth the lines."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who went away or said nothing is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class WebServer:
    """Serves an application until closed. **Raises** `ConfigInvalid` with the hint if it cannot have the address."""

    def __init__(self, address: tuple[str, int], application: WSGIApplication, what: str, hint: str) -> None:
        try:
            self._server = make_server(*address, application, _Server, _Handler)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot serve {what}: {error.strerror} address={address[0]}:{address[1]}; {hint}"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="lurm-web", daemon=True)
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

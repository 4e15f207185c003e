"""Serves the page and its JSON: GET only, to this origin only, to nobody whom a foreign name led here.

``/api/overview`` and ``/api/user?id=ID`` (percent-encoded); ``/api/user/ID`` does for most, but whoever asks for a path
takes ``..`` out of it, however it is encoded. An error is ``{"error": text}`` with a status of its own.
With a token, page and JSON are for who logs in with it.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from state.errors import StateError
from stream.console.login import CHALLENGE, Login
from stream.errors import LurmError
from stream.web import WebServer

_HEADERS: Final = [
    ("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]  # fmt: skip
_PAGE: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_USER = "/api/user"


class Answer(NamedTuple):
    """One response."""

    status: HTTPStatus
    kind: str
    body: bytes


class Api(NamedTuple):
    """What the endpoints say; ``user`` gives None when nothing is known."""

    overview: Callable[[], Mapping[str, Any]]
    user: Callable[[str], Mapping[str, Any] | None]


class ConsoleServer(WebServer):
    """Serves until closed."""

    def __init__(self, address: tuple[str, int], api: Api, token: str = "") -> None:
        self._api = api
        self._login = Login(token)
        self._host = address[0]
        folder = files("stream.console") / "page"
        self._page = {path: Answer(HTTPStatus.OK, kind, (folder / name).read_bytes())
                      for path, (name, kind) in _PAGE.items()}  # fmt: skip
        super().__init__(address, self._respond, "the console", "choose another --port")

    def _respond(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answer(environ)
        headers = [*_HEADERS, ("Content-Type", answer.kind), ("Content-Length", str(len(answer.body)))]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET"))
        if answer.status is HTTPStatus.UNAUTHORIZED:
            headers.append(CHALLENGE)
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [answer.body]

    def _answer(self, environ: Mapping[str, Any]) -> Answer:
        refused = self._refusal(environ)
        if refused is not None:
            return refused
        # WSGI hands the path over as Latin-1, whatever it was.
        raw = environ["PATH_INFO"].encode("latin-1")
        try:
            path = raw.decode()
        except UnicodeDecodeError:
            return _error(HTTPStatus.BAD_REQUEST, "the path is not UTF-8")
        if path in self._page:
            return self._page[path]
        try:
            return self._answer_api(path, environ.get("QUERY_STRING", ""))
        except (LurmError, StateError) as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    def _refusal(self, environ: Mapping[str, Any]) -> Answer | None:
        if environ["REQUEST_METHOD"] != "GET":
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered")
        if not self._is_ours(environ.get("HTTP_HOST", "")):
            return _error(HTTPStatus.FORBIDDEN, "ask by address, by localhost or by the name given with --host")
        if not self._login.admits(environ):
            return _error(HTTPStatus.UNAUTHORIZED, "log in with any user name and console.token as the password")
        return None

    def _answer_api(self, path: str, query: str) -> Answer:
        if path == "/api/overview":
            return _json(HTTPStatus.OK, self._api.overview())
        user = _user_asked_for(path, query)
        if not user:
            return _error(HTTPStatus.NOT_FOUND, "there is no such page")
        found = self._api.user(user)
        if found is None:
            return _error(HTTPStatus.NOT_FOUND, f"nothing is known of the user: user={user}")
        return _json(HTTPStatus.OK, found)

    def _is_ours(self, host: str) -> bool:
        """A name of somebody else's that resolves to this address would let his page read ours."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in {"localhost", self._host.lower()} or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _user_asked_for(path: str, query: str) -> str:
    """Empty when the request is for no user. A path is decoded already, a query is not."""
    if path != _USER:
        return path.removeprefix(f"{_USER}/") if path.startswith(f"{_USER}/") else ""
    try:
        return parse_qs(query, errors="strict").get("id", [""])[0]
    except ValueError:
        return ""


def _json(status: HTTPStatus, content: Mapping[str, Any]) -> Answer:
    return Answer(status, "application/json", msgspec.json.encode(content))


def _error(status: HTTPStatus, message: str) -> Answer:
    return _json(status, {"error": message})

"""Who may read the console: whoever gives its token as the password of HTTP Basic, for which every browser asks."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any, Final

CHALLENGE: Final = ("WWW-Authenticate", 'Basic realm="lurm console", charset="UTF-8"')


class Login:
    """Lets in everybody while the token is empty; else whoever shows it, under any user name."""

    def __init__(self, token: str = "") -> None:
        self._token = token.encode()

    def admits(self, environ: Mapping[str, Any]) -> bool:
        """Whether this request shows the token; compared in constant time."""
        return not self._token or hmac.compare_digest(_password(environ.get("HTTP_AUTHORIZATION", "")), self._token)


def _password(authorization: str) -> bytes:
    """The password of ``Basic base64(user:password)``; empty, which is no token, for anything else."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(credentials.encode("latin-1"), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""

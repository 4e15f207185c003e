"""HTTP for a few visitors: a crowd of silent or slow ones costs a bounded number of threads and descriptors.

One thread holds every connection and waits for none; a few others make the answers. Whoever has not asked after
`ASK_S`, or not taken the answer after `TAKE_S`, is sent away. Where `VISITORS_MAX` are, the first of those who have not
asked yet makes room for the next: a probe, which asks as it comes, is answered whatever the others do.

Invariant: neither answering others nor closing waits for a visitor. Refused: a thread for each; a web framework, for
the sake of four pages.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from io import BytesIO
from queue import SimpleQueue
from typing import Any, Final, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import WSGIApplication

from stream.errors import ConfigInvalid

VISITORS_MAX: Final = 64
ANSWERS_MAX: Final = 4
ASK_S: Final = 5.0
# The console may read a topic for one page; who waits longer is told to come again.
ANSWER_S: Final = 60.0
TAKE_S: Final = 10.0
_HEAD_BYTES_MAX: Final = 16_384
# So many knock at once and are not turned away by the kernel.
_BACKLOG: Final = 1_024
# No descriptor is left, or the visitor went away while knocking.
_REFUSED_PAUSE_S: Final = 0.1
_TOO_LARGE: Final = b"HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n"
_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\n\r\n"

_Address = tuple[str, int]
_Visit = asyncio.Task[None]


class _Request(WSGIRequestHandler):
    """A request that was read already, and its answer, both in memory."""

    rfile: BytesIO
    wfile: BytesIO

    def setup(self) -> None:
        """Called first."""
        self.rfile, self.wfile = BytesIO(self.request), BytesIO()

    def finish(self) -> None:
        """Called last: there is nothing to close."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """A probe or a page that asks every few seconds is not worth the lines."""


class _Listener(WSGIServer):
    request_queue_size = _BACKLOG


class _Question(NamedTuple):
    head: bytes
    address: _Address
    answer: "asyncio.Future[bytes]"


class WebServer:
    """Serves an application until closed. Paths ``at_once``, which must not wait, are answered before all others.

    **Raises** `ConfigInvalid` with the hint if it cannot have the address.
    """

    def __init__(
        self,
        address: _Address,
        application: WSGIApplication,
        what: str,
        hint: str,
        at_once: frozenset[str] = frozenset(),
    ) -> None:
        try:
            self._listener = make_server(*address, application, _Listener, _Request)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot serve {what}: {error.strerror} address={address[0]}:{address[1]}; {hint}"
            ) from error
        self._at_once = at_once
        # Who has not asked yet, and who waits for an answer or takes it: each in the order of coming.
        self._asking: dict[_Visit, None] = {}
        self._waiting: dict[_Visit, None] = {}
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self._loop = asyncio.SelectorEventLoop()
        self._accepting = self._loop.create_task(self._accept())
        self._threads = [threading.Thread(target=self._run, name="lurm-web", daemon=True)]
        self._threads += [
            threading.Thread(target=self._make_answers, name=f"lurm-web-{i}", daemon=True) for i in range(ANSWERS_MAX)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def port(self) -> int:
        """The port that is served, also when any free one was asked for."""
        return self._listener.server_port

    def close(self) -> None:
        """Stop serving."""
        with suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._accepting.cancel)
        self._threads[0].join()

    def _run(self) -> None:
        with self._listener, suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accepting)
        for _ in range(ANSWERS_MAX):
            self._questions.put(None)
        self._loop.close()

    async def _accept(self) -> None:
        self._listener.socket.setblocking(False)
        try:
            while True:
                try:
                    visitor, address = await self._loop.sock_accept(self._listener.socket)
                except OSError:
                    await asyncio.sleep(_REFUSED_PAUSE_S)
                    continue
                self._make_room()
                visit = self._loop.create_task(self._receive(visitor, address))
                self._asking[visit] = None
                visit.add_done_callback(self._forget)
                # Whoever makes room has gone, and whoever came has been heard, before the next comes in.
                await asyncio.sleep(0)
        finally:
            visits = [*self._asking, *self._waiting]
            for visit in visits:
                visit.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    def _make_room(self) -> None:
        if len(self._asking) + len(self._waiting) >= VISITORS_MAX:
            first = next(iter(self._asking or self._waiting))
            first.cancel()
            self._forget(first)

    def _forget(self, visit: _Visit) -> None:
        self._asking.pop(visit, None)
        self._waiting.pop(visit, None)

    async def _receive(self, visitor: socket.socket, address: _Address) -> None:
        """One visit, from the question to the answer."""
        # A visitor who went away or said nothing is no news.
        with visitor, suppress(OSError, TimeoutError):
            visitor.setblocking(False)
            async with asyncio.timeout(ASK_S):
                head = await self._read_head(visitor)
            if head is None:
                return
            visit = asyncio.current_task()
            assert visit is not None  # noqa: S101 - this is one
            self._asking.pop(visit, None)
            self._waiting[visit] = None
            answer = await self._answer_to(head, address)
            async with asyncio.timeout(TAKE_S):
                await self._loop.sock_sendall(visitor, answer)
            visitor.shutdown(socket.SHUT_WR)

    async def _read_head(self, visitor: socket.socket) -> bytes | None:
        """All until the empty line; None from who hangs up before."""
        head = b""
        while b"\n\r\n" not in head and b"\n\n" not in head and len(head) <= _HEAD_BYTES_MAX:
            part = await self._loop.sock_recv(visitor, _HEAD_BYTES_MAX)
            if not part:
                return None
            head += part
        return head

    async def _answer_to(self, head: bytes, address: _Address) -> bytes:
        if len(head) > _HEAD_BYTES_MAX:
            return _TOO_LARGE
        if _path(head) in self._at_once:
            return self._call_application(head, address)
        question = _Question(head, address, self._loop.create_future())
        self._questions.put(question)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await question.answer
        except TimeoutError:
            return _BUSY

    def _make_answers(self) -> None:
        while (question := self._questions.get()) is not None:
            # Who left meanwhile needs none.
            if not question.answer.cancelled():
                answer = self._call_application(question.head, question.address)
                with suppress(RuntimeError):  # closed meanwhile
                    self._loop.call_soon_threadsafe(_give, question, answer)

    def _call_application(self, head: bytes, address: _Address) -> bytes:
        # Its signature says socket, of which it uses nothing but what `setup` does.
        request: Any = head
        return _Request(request, address, self._listener).wfile.getvalue()


def _path(head: bytes) -> str:
    target = head.partition(b"\n")[0].split()[1:2]
    return target[0].partition(b"?")[0].decode("latin-1") if target else ""


def _give(question: _Question, answer: bytes) -> None:
    if not question.answer.done():
        question.answer.set_result(answer)

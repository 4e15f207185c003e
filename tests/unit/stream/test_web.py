"""A thousand real visitors, silent, slow or greedy: threads and descriptors stay few, and probes are answered."""

import resource
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stream.web import ANSWERS_MAX, VISITORS_MAX, WebServer

N_VISITORS = 1_000
LARGE = b"x" * (8 << 20)  # more than the kernel keeps for who does not read
SILENT = b""
SLOW = b"GET /large HTTP/1.1\r\nHost: "
GREEDY = b"GET /large HTTP/1.1\r\n\r\n"


class Site:
    """Answers ``/large``, and ``/stuck`` not before it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.n_large = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/stuck":
            self.let_go.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/large":
            self.n_large += 1
            return [LARGE]
        return [b"here\n"]


@pytest.fixture(autouse=True)
def _enough_descriptors() -> Iterator[None]:
    """The visitors' own ends are this process' too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def server(site: Site) -> Iterator[WebServer]:
    server = WebServer(("127.0.0.1", 0), site, "a site", "", frozenset({"/livez"}))
    yield server
    site.let_go.set()
    server.close()


def get(server: WebServer, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
        return answer.read()


def n_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def visit(server: WebServer, said: bytes) -> socket.socket:
    visitor = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    visitor.sendall(said)
    return visitor


@pytest.mark.parametrize("said", [SILENT, SLOW, GREEDY], ids=["silent", "slow", "greedy"])
def test_a_thousand_visitors_take_few_threads_and_descriptors_and_probes_are_answered(
    said: bytes, server: WebServer, site: Site
) -> None:
    threads, descriptors = threading.active_count(), n_descriptors()
    with ExitStack() as visitors:
        for i in range(N_VISITORS):
            visitors.enter_context(visit(server, said))
            if i % 100 == 99:
                assert get(server, "/livez") == b"here\n"
        assert threading.active_count() <= threads
        assert n_descriptors() - N_VISITORS - descriptors <= VISITORS_MAX
        # Others' pages too, unless the crowd asks for pages itself.
        if said != GREEDY:
            assert get(server, "/large") == LARGE
            assert site.n_large == 1


def test_pages_that_never_end_take_few_threads_and_probes_are_answered(server: WebServer) -> None:
    threads = threading.active_count()
    with ExitStack() as visitors:
        for _ in range(4 * ANSWERS_MAX):
            visitors.enter_context(visit(server, b"GET /stuck HTTP/1.1\r\n\r\n"))
        assert get(server, "/livez") == b"here\n"
        assert threading.active_count() <= threads
        server.close()


def test_a_visitor_who_drips_is_sent_away_at_the_deadline(server: WebServer) -> None:
    with visit(server, b"GET /") as dripping:
        dripping.settimeout(0.2)
        answer: bytes | None = None
        while answer is None:
            try:
                dripping.sendall(b"x")
                answer = dripping.recv(1)
            except TimeoutError:
                continue
            except ConnectionError:
                answer = b""
        assert answer == b""


def test_a_head_without_end_is_refused(server: WebServer) -> None:
    with visit(server, b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 20_000) as endless:
        assert endless.recv(1 << 10).startswith(b"HTTP/1.0 431 ")


def test_who_asks_in_pieces_or_ends_lines_plainly_is_answered(server: WebServer) -> None:
    for pieces in ([b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n"], [b"GET / HTTP/1.0\n", b"\n"]):
        with visit(server, pieces[0]) as visitor:
            for piece in pieces[1:]:
                visitor.sendall(piece)
            answer = b""
            while part := visitor.recv(1 << 10):
                answer += part
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nhere\n")


def test_who_hangs_up_while_being_answered_disturbs_nobody(server: WebServer, site: Site) -> None:
    for said in (GREEDY, b"GET /stuck HTTP/1.1\r\n\r\n", SLOW):
        visit(server, said).close()
    site.let_go.set()
    assert get(server, "/") == b"here\n"

"""A connection over TLS is closed although the other side never says goodbye."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from stream.worker.event_loop import LoopPolicy
from tests.secured import make_ca

# Far beyond what a loop of ours waits, far below what uvloop does by itself.
DEADLINE_S = 15.0


@pytest.fixture
def silent_server(tmp_path: Path) -> Iterator[int]:
    """The port of a server that shakes hands and does nothing more."""
    make_ca(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    done = threading.Event()

    def serve() -> None:
        plain, _ = listening.accept()
        with context.wrap_socket(plain, server_side=True):
            done.wait()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        done.set()
        thread.join()


def test_the_loops_of_a_worker_do_not_wait_for_a_goodbye_that_does_not_come(silent_server: int) -> None:
    async def connect_and_close() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", silent_server, ssl=context)
        writer.close()
        closing = asyncio.ensure_future(writer.wait_closed())
        done, _ = await asyncio.wait([closing], timeout=DEADLINE_S)
        writer.transport.abort()
        assert done, "it still waits"
        with pytest.raises(TimeoutError, match="SSL shutdown timed out"):
            await closing

    with asyncio.Runner(loop_factory=LoopPolicy().new_event_loop) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        runner.run(connect_and_close())

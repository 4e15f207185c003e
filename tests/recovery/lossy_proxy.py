"""A TCP proxy before a broker that loses chosen answers: the broker did what was asked, and nobody hears of it."""

import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from enum import IntEnum
from typing import Self

from stream.trial.embedded_broker import HOST

_SIZE = struct.Struct(">i")
_HEAD = struct.Struct(">hhi")


class Request(IntEnum):
    """Kafka's numbers of the requests a transaction consists of."""

    PRODUCE = 0
    ADD_PARTITIONS = 24
    ADD_OFFSETS = 25
    END_TRANSACTION = 26
    COMMIT_OFFSETS = 28


class LossyProxy:
    """Forwards every connection; each ``period``-th answer of every `Request` ends its connection instead."""

    def __init__(self, port: int, to_port: int, period: int) -> None:
        self.address = f"{HOST}:{port}"
        self.lost: Counter[Request] = Counter()
        self.losing = False
        self._to_port = to_port
        self._period = period
        self._seen: Counter[int] = Counter()
        self._listener = socket.create_server((HOST, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection((HOST, self._to_port)) as broker:
            doomed: dict[int, Request] = {}
            answers = threading.Thread(target=self._answer, args=[broker, client, doomed], daemon=True)
            answers.start()
            while (frame := _read(client)) is not None:
                key, _, correlation = _HEAD.unpack_from(frame)
                if self._loses(key):
                    doomed[correlation] = Request(key)
                broker.sendall(_SIZE.pack(len(frame)) + frame)
            broker.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _loses(self, key: int) -> bool:
        if not self.losing or key not in set(Request):
            return False
        self._seen[key] += 1
        return self._seen[key] % self._period == 0

    def _answer(self, broker: socket.socket, client: socket.socket, doomed: dict[int, Request]) -> None:
        with suppress(OSError):
            while (frame := _read(broker)) is not None:
                request = doomed.pop(_SIZE.unpack_from(frame)[0], None)
                if request is not None:
                    self.lost[request] += 1
                    break
                client.sendall(_SIZE.pack(len(frame)) + frame)
            client.shutdown(socket.SHUT_RDWR)


def _read(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, _SIZE.size)
    return None if head is None else _exactly(connection, _SIZE.unpack(head)[0])


def _exactly(connection: socket.socket, n_bytes: int) -> bytes | None:
    received = bytearray()
    while len(received) < n_bytes:
        part = connection.recv(n_bytes - len(received))
        if not part:
            return None
        received += part
    return bytes(received)

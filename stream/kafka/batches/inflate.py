"""What a compressed batch holds, given out as it is asked for: a batch of 70 kB may hold gigabytes.

Kafka bounds batches as they were sent, and both clients would decompress all at once. A stream keeps its codec's
window beside what it gives out: 128 MiB at most, of zstd's highest levels only.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

import cramjam
import zstandard
from lz4.frame import LZ4FrameDecompressor

# At most so many bytes; fewer only at the end.
Read = Callable[[int], bytes]

NONE: Final = 0
# What the default of libzstd takes, and so the broker, which reads every batch before it takes it.
_ZSTD_WINDOW_BYTES_MAX: Final = 1 << 27
_GZIP_HEADERS: Final = 31
_GZIP_BYTES: Final = 1 << 16
# Snappy makes 64 bytes of 3 at best, so that a block that claims more is none.
_SNAPPY_TIMES_MAX: Final = 22
_SNAPPY_HEADER: Final = 16
_XERIAL: Final = b"\x82SNAPPY\x00"
_BLOCK: Final = struct.Struct(">i")


class NotCompressed(ValueError):
    """The bytes are not what their codec makes."""


def inflated(codec: int, data: memoryview) -> Read:
    """What these bytes were before Kafka's codec of this number compressed them. **Raises** `NotCompressed`."""
    try:
        return _OPEN[codec](data)
    except KeyError:
        raise NotCompressed(f"no such codec: number={codec}") from None


def _zstd(data: memoryview) -> Read:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    read: Read = decompressor.stream_reader(data, read_across_frames=True).read
    return read


def _gzip(data: memoryview) -> Read:
    def parts(n_bytes: list[int]) -> Iterator[bytes]:
        rest = bytes(data)
        while rest:
            member = zlib.decompressobj(_GZIP_HEADERS)
            while not member.eof:
                if not (rest or member.unconsumed_tail):
                    raise NotCompressed("gzip ends in the middle")
                taken = member.unconsumed_tail or rest[:_GZIP_BYTES]
                rest = rest if member.unconsumed_tail else rest[_GZIP_BYTES:]
                yield member.decompress(taken, n_bytes[0])
            rest = member.unused_data + rest

    return _joined(parts)


def _lz4(data: memoryview) -> Read:
    def parts(n_bytes: list[int]) -> Iterator[bytes]:
        rest = bytes(data)
        while rest:
            frame = LZ4FrameDecompressor()
            while not frame.eof:
                if frame.needs_input and not rest:
                    raise NotCompressed("lz4 ends in the middle")
                yield frame.decompress(rest, max_length=n_bytes[0])
                rest = b""
            rest = frame.unused_data or b""

    return _joined(parts)


def _snappy(data: memoryview) -> Read:
    blocks = _xerial_blocks(data[_SNAPPY_HEADER:]) if bytes(data[: len(_XERIAL)]) == _XERIAL else iter([data])
    return _joined(lambda _: map(_snappy_block, blocks))


def _xerial_blocks(data: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(data):
        (size,) = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        if not 0 < size <= len(data) - at:
            raise NotCompressed(f"a block of snappy has no such size: bytes={size}")
        yield data[at : at + size]
        at += size


def _snappy_block(block: memoryview) -> bytes:
    claimed = cramjam.snappy.decompress_raw_len(block)
    # Room for what is claimed would be made before the claim is found wrong.
    if claimed > _SNAPPY_TIMES_MAX * len(block):
        raise NotCompressed(f"a block of snappy claims too much: bytes={len(block)} claimed={claimed}")
    return bytes(cramjam.snappy.decompress_raw(block))


def _joined(parts: Callable[[list[int]], Iterator[bytes]]) -> Read:
    """Reads what comes in parts, each made when it is wanted and told how many bytes are."""
    wanted = [0]
    left = parts(wanted)
    held = memoryview(b"")

    def read(n_bytes: int) -> bytes:
        nonlocal held
        found: list[memoryview] = []
        missing = n_bytes
        while missing:
            if not held:
                wanted[0] = missing
                part = next(left, None)
                if part is None:
                    break
                held = memoryview(part)
            found.append(held[:missing])
            held = held[missing:]
            missing -= len(found[-1])
        return b"".join(found)

    return read


_OPEN: Final = {
    NONE: lambda data: _joined(lambda _: chain([bytes(data)])),
    1: _gzip,
    2: _snappy,
    3: _lz4,
    4: _zstd,
}

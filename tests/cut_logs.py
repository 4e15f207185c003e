"""A node of Kafka that comes back without the end of a log, as from a disk that never got it."""

from collections.abc import Iterator

from stream.trial.embedded_broker import ApacheKafka

_READY_S = 180.0
# Of the last byte of the attributes.
_IS_CONTROL = 0x20


def lose_end(kafka: ApacheKafka, topic: str, offset: int, *, behind_marker: bool = False) -> None:
    """Kill the node and start it again without what partition 0 has from the batch at this offset on.

    ``behind_marker``: from behind the first transaction that ends there, so that none is left half.
    """
    kafka.kill()
    folder = kafka.data_dir / "log" / f"{topic}-0"
    log = folder / f"{0:020d}.log"
    data = log.read_bytes()
    for base, is_control, first, end in _batches(data):
        if base >= offset and (is_control or not behind_marker):
            log.write_bytes(data[: end if behind_marker else first])
            break
    else:
        raise AssertionError("the log is shorter")
    for index in (*folder.glob("*.index"), *folder.glob("*.timeindex")):
        index.unlink()
    start(kafka)


def start(kafka: ApacheKafka) -> ApacheKafka:
    """Start the node, on a machine however busy."""
    kafka.launch()
    kafka.wait_ready(_READY_S)
    return kafka


def _batches(data: bytes) -> Iterator[tuple[int, bool, int, int]]:
    """First offset, whether it ends a transaction, and where it stands, of each batch."""
    place = 0
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place + 8 : place + 12], "big")
        batch = data[place:end]
        yield int.from_bytes(batch[:8], "big"), bool(batch[22] & _IS_CONTROL), place, end
        place = end

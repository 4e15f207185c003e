import re

import pytest

from stream.settings import Settings
from tests.worker.conftest import MakeWorker
from tests.workers import Traffic, second, wait_until


@pytest.mark.slow
def test_two_workers_with_one_instance_id_are_told_so(settings: Settings, make_worker: MakeWorker) -> None:
    """Kafka says to the one that loses no more than that a transaction took too long, or that there is a newer one."""
    twin = second(settings).model_copy(update={"worker": settings.worker})
    a, b = make_worker(settings).ready(), make_worker(twin).start()
    traffic = Traffic(settings, seed=71)

    def ended() -> list[str]:
        traffic.send(20)
        return [each.output() for each in (a, b) if each.returncode is not None]

    wait_until(ended, explain=lambda: [a.output(), b.output()])
    assert {a.returncode, b.returncode} <= {70, None}
    (output,) = ended()
    assert re.search(r"another worker has taken this partition over: .*same LURM_WORKER__INSTANCE", output), output
    assert "Traceback" not in output

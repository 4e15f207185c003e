import random
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.soak.faults import deal
from stream.trial.embedded_broker import ApacheKafka, EmbeddedBroker


@pytest.mark.parametrize("seed", range(5))
def test_every_soak_begins_with_one_fault_of_each_kind_and_leaves_none_out(tmp_path: Path, seed: int) -> None:
    on_kafka = faults(ApacheKafka(tmp_path, tmp_path), seed)
    assert sorted(on_kafka[:5]) == ["erase_user", "kill_broker", "kill_worker", "lose_disk", "zombie"]
    assert sorted(on_kafka[:12]) == sorted(on_kafka[12:24])
    assert len(set(on_kafka)) == 12
    embedded = faults(EmbeddedBroker(tmp_path), seed)
    assert sorted(embedded[:3]) == ["erase_user", "kill_worker", "lose_disk"]
    assert len(set(embedded)) == len(set(embedded[:7])) == 7
    assert on_kafka == faults(ApacheKafka(tmp_path, tmp_path), seed), "a seed repeats them"


def faults(broker: ApacheKafka | EmbeddedBroker, seed: int) -> list[str]:
    scene: Any = SimpleNamespace(broker=broker, pick=random.Random(seed))
    return [fault.__name__ for fault in islice(deal(scene), 24)]

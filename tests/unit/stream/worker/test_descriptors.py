import resource

import pytest

from stream.errors import ConfigInvalid
from stream.settings import Settings, State, Topics
from stream.worker.descriptors import open_files_max, raise_limit


def wanting(partitions: int, open_files: int = 512) -> Settings:
    return Settings(topics=Topics(partitions=partitions), state=State(open_files_max=open_files))


@pytest.mark.parametrize(
    ("partitions", "limit", "expected"),
    [(4, 1_024, 170), (4, 20_000, 512), (100, 20_000, 175), (1_000, 1 << 20, 512), (9, resource.RLIM_INFINITY, 512)],
)
def test_all_partitions_together_stay_below_the_limit(partitions: int, limit: int, expected: int) -> None:
    share = open_files_max(wanting(partitions), limit)
    assert share == expected
    assert limit == resource.RLIM_INFINITY or partitions * share < limit


def test_the_least_that_works_is_said_where_the_limit_is_below_it() -> None:
    with pytest.raises(ConfigInvalid, match=r"limit=1024 needed=4456 topics.partitions=100"):
        open_files_max(wanting(100), 1_024)
    assert open_files_max(wanting(100), 4_456) == 20


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_limit() == before[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

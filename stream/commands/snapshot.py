"""`lurm snapshot` and `lurm restore`: a worker's state to a folder and back; only the changelog's tail is replayed.

Both need the broker: a snapshot belongs to one changelog topic, by its id, and to an offset in it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stream.commands.progress import progress_bar
from stream.errors import BundleMismatch, ConfigInvalid, LurmError
from stream.printable import say
from stream.settings import Settings

if TYPE_CHECKING:
    from state.snapshot import Manifest

EXAMPLES = """
\b
Examples:
  LURM_STATE__DIR=/var/lib/lurm lurm snapshot --out /backup/2024-10-04
  LURM_STATE__DIR=/var/lib/lurm lurm restore --from /backup/2024-10-04
"""
_PARTITION = click.option("--partition", type=int, metavar="N", help="[default: every partition there is]")


@click.command(epilog=EXAMPLES)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR")
@_PARTITION
@click.pass_obj
def snapshot(settings: Settings, out: Path, partition: int | None) -> None:
    """Copy the state in LURM_STATE__DIR to a folder, one sub-folder per partition; the worker may go on.

    Users who are erased later stay in it: delete snapshots as you delete backups. One older than 6 days is of no use.
    """
    from state.options import StoreOptions, StoreResources  # noqa: PLC0415
    from state.snapshot import Origin, take  # noqa: PLC0415

    found = _partitions(_folder(settings), partition)
    taken = [out / path.name for path in found.values() if (out / path.name).exists()]
    if taken:
        raise ConfigInvalid(f"there is a snapshot already: path={taken[0]}; choose another --out")
    changelog_id = _changelog_id(settings)
    for number, path in found.items():
        origin = Origin(settings.app.id, number, settings.changelog_topic, changelog_id)
        try:
            with progress_bar(f"partition {number}") as progress:
                made = take(path, out / path.name, origin, StoreResources(StoreOptions()), progress)
        except OSError as error:
            raise LurmError(f"cannot write the snapshot: {error.strerror} path={error.filename or out}") from error
        say(f"partition {number}: rows={made.rows} marks={made.marks} changelog_offset={made.changelog_offset}")


@click.command(epilog=EXAMPLES)
@click.option("--from", "source", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR")
@_PARTITION
@click.option("--replace", is_flag=True, help="Also replace state that is newer than the snapshot.")
@click.pass_obj
def restore(settings: Settings, source: Path, partition: int | None, replace: bool) -> None:
    """Put snapshots into LURM_STATE__DIR of a stopped worker, which then replays the changelog from there.

    Everything is checked before anything is replaced: the files' hashes, the application, the changelog, the bundle (if
    LURM_MODEL__BUNDLE is set), the snapshot's age, and that what is there is older.
    """
    from state.errors import StoreUnavailable  # noqa: PLC0415
    from state.lock import locked  # noqa: PLC0415
    from state.options import StoreOptions, StoreResources  # noqa: PLC0415
    from state.snapshot import load  # noqa: PLC0415
    from state.snapshot import restore as put  # noqa: PLC0415

    folder, found = _folder(settings), _partitions(source, partition)
    with progress_bar("checking") as progress:
        manifests = {}
        for number, path in found.items():
            manifests[number] = load(path)
            progress(len(manifests), len(found))
    own, space = (settings.app.id, _changelog_id(settings)), _space(settings)
    try:
        with locked(folder):
            for number, manifest in manifests.items():
                _refuse_other(manifest, number, own, space)
                _refuse_old(found[number], manifest.applied_at_s)
                _refuse_newer(_database(folder, number), manifest, replace=replace)
            for number, manifest in manifests.items():
                put(found[number], manifest, _database(folder, number), StoreResources(StoreOptions()))
                say(f"partition {number}: rows={manifest.rows} changelog_offset={manifest.changelog_offset}")
    except StoreUnavailable as error:
        raise ConfigInvalid(f"{error}; is its worker stopped?") from error
    except OSError as error:
        raise LurmError(f"cannot write the state: {error.strerror} path={error.filename or folder}") from error


def _folder(settings: Settings) -> Path:
    if settings.state.dir is None:
        raise ConfigInvalid("no folder for the state: set LURM_STATE__DIR")
    return settings.state.dir / settings.app.id


def _partitions(folder: Path, wanted: int | None) -> Mapping[int, Path]:
    names = [path.name.removeprefix("partition-") for path in folder.glob("partition-*") if path.is_dir()]
    numbers = sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))
    found = {number: _database(folder, number) for number in numbers if wanted in (None, number)}
    if not found:
        what = "no partition" if wanted is None else f"no partition {wanted}"
        raise ConfigInvalid(f"there is {what} here: path={folder}")
    return found


def _database(folder: Path, number: int) -> Path:
    return folder / f"partition-{number}"


def _changelog_id(settings: Settings) -> str | None:
    from stream.kafka.topics import n_partitions, topic_id  # noqa: PLC0415 - --help needs no Kafka client

    if not n_partitions(settings, settings.changelog_topic):
        raise ConfigInvalid(f"no such topic: topic={settings.changelog_topic}; a snapshot continues in its changelog")
    return topic_id(settings, settings.changelog_topic)


def _space(settings: Settings) -> tuple[str, str] | None:
    """Interest space and scales of the bundle, if one is named."""
    if settings.model.bundle is None:
        return None
    from lurm_model.bundle import Bundle  # noqa: PLC0415 - torch is slow to import
    from state.periods import format_scales  # noqa: PLC0415

    bundle = Bundle.load(settings.model.bundle)
    return bundle.codebook.interest_space_id, format_scales(bundle.scales)


def _refuse_other(
    manifest: "Manifest", number: int, own: tuple[str, str | None], space: tuple[str, str] | None
) -> None:
    origin, (app_id, changelog_id) = manifest.origin, own
    if (origin.app_id, origin.partition) != (app_id, number):
        raise ConfigInvalid(
            f"the snapshot is another's: app={origin.app_id} partition={origin.partition}, "
            f"wanted app={app_id} partition={number}"
        )
    if origin.changelog_id != changelog_id:
        raise ConfigInvalid(f"the changelog was recreated since the snapshot: topic={origin.changelog}")
    if space is not None and space != (manifest.interest_space_id, manifest.scales):
        raise BundleMismatch(
            "the snapshot was counted with another codebook or other scales: "
            f"snapshot={manifest.interest_space_id} {manifest.scales} bundle={' '.join(space)}"
        )


def _refuse_old(path: Path, applied_at_s: float) -> None:
    from state.store import is_recent  # noqa: PLC0415

    if not is_recent(applied_at_s, time.time()):
        raise ConfigInvalid(
            "the snapshot is older than the changelog keeps deletions, or dated in the future by a wrong clock: "
            f"applied={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(applied_at_s))} path={path}; "
            "start the worker without it: it replays the whole changelog"
        )


def _refuse_newer(path: Path, manifest: "Manifest", *, replace: bool) -> None:
    from state.options import StoreOptions, StoreResources  # noqa: PLC0415
    from state.store import BagStore, is_of_another  # noqa: PLC0415

    if not path.exists():
        return
    store = BagStore(path, StoreResources(StoreOptions()))
    offset = store.changelog_offset
    comparable = not is_of_another(store, manifest.origin.changelog_id or "")
    store.close()
    if comparable and offset > manifest.changelog_offset and not replace:
        raise ConfigInvalid(
            f"the state is newer than the snapshot: path={path} changelog_offset={offset} "
            f"snapshot={manifest.changelog_offset}; --replace goes back all the same"
        )

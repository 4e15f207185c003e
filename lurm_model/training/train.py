"""Training, events -> bundle: items are embedded and clustered into a codebook, SMEN learns from two views of users."""

import json
import platform
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from lurm_model.bundle import Bundle
from lurm_model.errors import BundleError, CheckpointError, TrainingDataError
from lurm_model.events import Events, day_rows
from lurm_model.inference.encoder import choose_device
from lurm_model.interests.clustering import kmeans
from lurm_model.interests.codebook import Codebook, content_id
from lurm_model.interests.items import ItemVectors, embed_items
from lurm_model.interests.weighting import Float32, inverse_frequency
from lurm_model.progress import Progress, silent
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import Smen
from lurm_model.training.learning import History, LearnOptions, learn
from state.history import Rows
from state.periods import Int64, day_of, parse_scales

USERS_MIN = 100
ITEMS_MIN = 100
INTERESTS_MAX = 10_000
# The width of item vectors is the width of an anchor: interest vectors start from the centroids.
D_ITEM = 64


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What a training may be told; the defaults need no tuning.

    ``n_interests`` None means half the items, at most `INTERESTS_MAX`; ``epochs`` None as many as it needs (see
    `LearnOptions`). ``checkpoint`` is a folder: a training that was interrupted goes on there, another one keeps out of
    its way.
    """

    scales: str = "day,month"
    n_interests: int | None = None
    d_item: int = D_ITEM
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    checkpoint: Path | None = None


def train(events: Events, options: TrainOptions = TrainOptions(), progress: Progress = silent) -> Bundle:
    """A bundle from these events; equal seeds give equal bundles on one machine.

    **Raises** `DeviceUnavailable`; `TrainingDataError` when there are too few users or items, or hardly a user has two
    events.
    """
    device = choose_device(options.device)
    events = events.compact()
    if len(events.users) < USERS_MIN or len(events.items) < ITEMS_MIN:
        found = f"users={len(events.users)} items={len(events.items)} events={len(events)} {events.span}"
        raise TrainingDataError(f"too little to learn from, need {USERS_MIN} users and {ITEMS_MIN} items: {found}")
    place = _checkpoint(events, options)
    config, codebook, interest = _started(events, options, place, progress)
    rows = day_rows(events.user, events.ts_ms, interest[events.item], events.weight)
    learn_options = LearnOptions(options.epochs, options.seed, device, place and place / "smen.pt")
    weights, history = train_smen(codebook, config, rows, learn_options, progress)
    training = _summary(events) | {"options": _told(options), "device": _name_of(device), "versions": _versions()}
    return Bundle.build(config, codebook, weights, training, history)


def train_smen(
    codebook: Codebook, config: SmenConfig, rows: Rows, options: LearnOptions, progress: Progress = silent
) -> tuple[dict[str, Float32], History]:
    """A SMEN over this codebook, learned from these rows: its weights, and what every epoch's loss was."""
    smen = start_smen(config, codebook, options.seed)
    history = learn(smen, rows, codebook.idf, options, progress)
    return {name: tensor.detach().cpu().numpy() for name, tensor in smen.state_dict().items()}, history


def _checkpoint(events: Events, options: TrainOptions) -> Path | None:
    """Where this very training keeps its checkpoints: named by its data and by every option but the epochs."""
    if options.checkpoint is None:
        return None
    told = replace(options, epochs=None, checkpoint=None, device="")
    columns = (getattr(events, name).tobytes() for name in ("user", "item", "ts_ms", "weight"))
    names = (json.dumps(part).encode() for part in (events.users, events.items, events.item_attributes))
    return options.checkpoint / content_id(repr(told).encode(), *columns, *names)


def _started(
    events: Events, options: TrainOptions, place: Path | None, progress: Progress
) -> tuple[SmenConfig, Codebook, Int64]:
    """Configuration, codebook and the interest of every item, made now or before this training was interrupted."""
    path = place and place / "codebook"
    if path and path.exists():
        try:
            stage = Bundle.load(path)
        except BundleError as error:
            raise CheckpointError(
                f"checkpoint's codebook cannot be used, remove it to begin again: folder={path} reason={error}"
            ) from error
        interest_of = stage.codebook.interest_of
        return stage.config, stage.codebook, np.array([interest_of[item] for item in events.items], np.int64)
    codebook, interest = make_codebook(events, options, progress)
    config = SmenConfig(
        n_interests=codebook.n_interests,
        d_item=codebook.centroids.shape[1],
        d_anchor=codebook.centroids.shape[1],
        reference_day=int(day_of(events.ts_ms).max()),
        scales=tuple(scale.name for scale in parse_scales(options.scales)),
    )
    if path:
        # A bundle has all its weights, or loading refuses it.
        weights = {
            name: tensor.numpy() for name, tensor in start_smen(config, codebook, options.seed).state_dict().items()
        }
        Bundle.build(config, codebook, weights, {}, {}).save(path)
    return config, codebook, interest


def make_codebook(events: Events, options: TrainOptions, progress: Progress) -> tuple[Codebook, Int64]:
    """The codebook, and the interest of every item as int64[n_items]."""
    progress("item vectors", 0, 1)
    items = embed_items(events, options.d_item, options.seed, progress)
    n_clusters = options.n_interests or min(INTERESTS_MAX, max(1, len(events.items) // 2))
    device = choose_device(options.device)
    vectors = torch.from_numpy(items.vectors).to(device)
    weights = torch.from_numpy(items.users_of.astype(np.float32)).to(device)
    centroids, cluster = kmeans(vectors, weights, n_clusters, options.seed, progress)
    interest = cluster.cpu().numpy().astype(np.int64)
    idf = _idf(events, interest, len(centroids))
    return _codebook(events, items, centroids.cpu().numpy(), interest, idf), interest


def start_smen(config: SmenConfig, codebook: Codebook, seed: int) -> Smen:
    """SMEN before any training: interest vectors from the centroids, everything else drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        smen = Smen(config)
    with torch.no_grad():
        smen.anchors.interests[: codebook.n_clusters] = torch.from_numpy(codebook.centroids)
    return smen


def _codebook(events: Events, items: ItemVectors, centroids: Float32, interest: Int64, idf: Float32) -> Codebook:
    interest_of = dict(zip(events.items, interest.tolist(), strict=True))
    return Codebook(interest_of, centroids, idf, items.tokens, items.token_vectors)


def _idf(events: Events, interest: Int64, n_clusters: int) -> Float32:
    """The idf of every interest over users; 0 for the unknown one."""
    pairs = np.unique(events.user * n_clusters + interest[events.item])
    frequency = np.bincount(pairs % n_clusters, minlength=n_clusters).astype(np.int64)
    return np.append(inverse_frequency(len(events.users), frequency), np.float32(0))


def _summary(events: Events) -> dict[str, object]:
    return {
        "n_events": len(events),
        "weight": int(events.weight.sum()),
        "n_users": len(events.users),
        "n_items": len(events.items),
        "ts_ms_first": int(events.ts_ms.min()),
        "ts_ms_last": int(events.ts_ms.max()),
    }


def _told(options: TrainOptions) -> dict[str, object]:
    """The options as plain data; where the checkpoints were is no part of a model."""
    return {name: value for name, value in asdict(options).items() if name != "checkpoint"}


def _name_of(device: str) -> str:
    return f"{device} {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else device


def _versions() -> dict[str, str]:
    """What a training depends on beside its data and options."""
    found = {name: metadata.version(name) for name in ("lurm-stream", "torch", "numpy", "scipy", "scikit-learn")}
    return {"python": platform.python_version()} | found

"""What test_devices.py runs in processes of their own: training and encoding on a device that is pretended."""

import sys

import numpy as np
import pytest
import torch

from lurm_model.bundle import Bundle
from lurm_model.evaluation.evaluate import encode_events, item_interests
from lurm_model.events import day_rows
from lurm_model.files.datasets import synthetic
from lurm_model.inference import encoder
from lurm_model.inference.incremental import IncrementalEncoder
from lurm_model.training import learning, train
from state.caches import Caches
from tests.pretended_device import DEVICE, Device, register

EVENTS, _ = synthetic(n_users=200, n_items=150)


def main() -> None:
    """What the command line names."""
    register()
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    for module in (train, encoder):
        patch.setattr(module, "choose_device", str)
    patch.setattr(train, "_name_of", str)
    for name, value in {"STEPS_MIN": 4, "HELD_OUT_USERS": (10, 20), "HELD_OUT_SHARE": 0.1}.items():
        patch.setattr(learning, name, value)
    {"training": training, "encoding": encoding, "meeting": meeting}[sys.argv[1]]()


def training() -> None:
    """Codebook and SMEN come out as on the CPU but for rounding."""
    expected = trained("cpu").manifest["metrics"]
    with Device() as device:
        found = trained(DEVICE).manifest["metrics"]
    assert device.n_computed > 1000
    assert set(found) == set(expected)
    assert "held_out" in found
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, err_msg=name)


def encoding() -> None:
    """So do the vectors of whole lives, and those of an incremental encode, without and with its caches."""
    bundle = trained("cpu")
    expected = encode_events(bundle, EVENTS, "cpu")
    rows = day_rows(EVENTS.user, EVENTS.ts_ms, item_interests(bundle, EVENTS)[EVENTS.item], EVENTS.weight)
    with Device() as device:
        whole = encode_events(bundle, EVENTS, DEVICE)
        fast = IncrementalEncoder(bundle, DEVICE)
        first, caches = fast.advance(Caches.none(len(EVENTS.users), fast.shape), rows)
        again, _ = fast.advance(caches, rows)
    assert device.n_computed > 100
    for vectors in (whole, first, again):
        np.testing.assert_allclose(vectors, expected, atol=1e-4)


def meeting() -> None:
    """Ends with an error."""
    with Device():
        torch.ones(3, device=DEVICE) + torch.ones(3)


def trained(device: str) -> Bundle:
    """A bundle of a few steps."""
    return train.train(EVENTS, train.TrainOptions(device=device))


if __name__ == "__main__":
    main()

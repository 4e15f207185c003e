from pathlib import Path

import numpy as np
import pytest
import torch

from lurm_model.bundle import Bundle
from lurm_model.events import Events, UserLabels
from lurm_model.files.datasets import synthetic
from lurm_model.training.train import TrainOptions, train

# Tensors this small gain nothing from threads, and on a busy machine they wait for each other for minutes.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the trained bundle waits for its training."""
    for item in items:
        if "bundle" in getattr(item, "fixturenames", ()) and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("trains")


@pytest.fixture(scope="session")
def population() -> tuple[Events, UserLabels]:
    return synthetic(n_users=600, n_items=200, n_groups=3, n_days=40, seed=7)


@pytest.fixture(scope="session")
def bundle(population: tuple[Events, UserLabels]) -> Bundle:
    return train(population[0], TrainOptions(n_interests=60, seed=3))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)

"""Gradients of the modules beside finite differences in double precision."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from lurm_model.smen.anchors import Anchors
from lurm_model.smen.collate import N_FEATURES, ScaleBatch, collate
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.network import bag_values
from lurm_model.smen.scales import MultiScale
from lurm_model.smen.time_aggregation import TimeAggregation
from lurm_model.training.contrast import ItemPrediction, Targets, VolumePrediction, info_nce
from state.bags import sum_pairs
from state.history import ScaleBags


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def slopes_agree(module: nn.Module, call: Callable[..., Tensor], *inputs: Tensor) -> bool:
    """Whether the gradients by the inputs and by every parameter of the module, moved off its start, are right."""
    module.double()
    for parameter in module.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    return gradcheck(lambda *_: call(*inputs), (*inputs, *module.parameters()))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def periods(rng: np.random.Generator) -> ScaleBatch:
    """Six periods of four users, one of whom has none."""
    bags = sum_pairs(np.arange(6), rng.integers(0, 50, 6).astype(np.uint32), np.ones(6, np.uint32), 6)
    active = np.array([1, 3, 1, 7, 1, 5])
    found = ScaleBags(np.array([0, 0, 0, 2, 2, 3]), np.array([3, 4, 9, 1, 2, 5]), active, bags)
    config = SmenConfig(n_interests=50, d_item=2, reference_day=300)
    return collate(dict.fromkeys(config.scales, found), 4, config, np.ones(50, np.float32)).scales["month"]


def test_of_the_table_of_anchors() -> None:
    anchors = Anchors(n_interests=4, n_anchors=3, d_anchor=3, tau=0.7)
    assert slopes_agree(anchors, anchors.table)
    assert slopes_agree(anchors, lambda: anchors.table(torch.tensor([2, 0])))


def test_of_the_values_of_bags_by_the_table(periods: ScaleBatch) -> None:
    weights = periods.weights.double()
    table = drawn(int(periods.indices.max()) + 1, 2)
    assert gradcheck(lambda rows: bag_values(periods.indices, weights, periods.offsets, rows), (table,))


def test_of_the_recurrence_by_values_and_weights(periods: ScaleBatch) -> None:
    time, values = TimeAggregation(n_recurrent=2, d_anchor=2), drawn(6, 2, 2)
    batch = replace(periods, norm_sq=periods.norm_sq.double(), features=periods.features.double())
    assert slopes_agree(time, lambda values: time(values, batch, 4), values)


def test_of_the_inputs_of_the_recurrence() -> None:
    time = TimeAggregation(n_recurrent=2, d_anchor=3)
    norm_sq = (1 + drawn(4).detach().square()).requires_grad_()
    assert gradcheck(time.inputs, (drawn(4, 2, 3), norm_sq, drawn(4, N_FEATURES)))


def test_of_the_gated_sum_of_scales() -> None:
    fuse = MultiScale(n_scales=2, n_recurrent=2, d_anchor=3)
    present = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert slopes_agree(fuse, lambda states: fuse(states, present), drawn(2, 4, 2, 3))


def test_of_the_contrast() -> None:
    assert gradcheck(info_nce, (drawn(5, 3), drawn(5, 3)))


def test_of_the_prediction_of_items() -> None:
    prediction = ItemPrediction(width=3, d_anchor=2, log_popularity=torch.zeros(4))
    share = torch.tensor([0.25, 0.75, 1.0], dtype=torch.float64)
    targets = Targets(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), share)
    candidates = torch.tensor([0, 3, 2])
    assert slopes_agree(prediction, lambda a, e: prediction(a, e, candidates, targets), drawn(2, 3), drawn(3, 2))


def test_of_the_prediction_of_volume() -> None:
    prediction = VolumePrediction(width=3)
    volume = torch.tensor([0, 0, 5, 1, 0, 2], dtype=torch.float64)
    assert slopes_agree(prediction, lambda flat: prediction(flat, volume), drawn(6, 3))

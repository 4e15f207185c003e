import numpy as np
import pytest
import torch

from lurm_model.bundle import Bundle
from lurm_model.smen.anchors import Anchors
from lurm_model.smen.collate import N_FEATURES, collate
from lurm_model.smen.config import SmenConfig
from lurm_model.smen.scales import MultiScale
from lurm_model.smen.time_aggregation import TimeAggregation
from state.bags import Bags, sum_pairs
from state.history import ScaleBags


def test_the_table_is_the_softly_shared_and_projected_interest_vector() -> None:
    torch.manual_seed(0)
    anchors = Anchors(n_interests=5, n_anchors=3, d_anchor=4, tau=0.7)
    with torch.no_grad():
        anchors.interests.normal_()
        anchors.projections.normal_()
        table = anchors.table()
        for d in range(5):
            logits = np.array([float(anchors.interests[d] @ anchors.anchors[m]) / 0.7 for m in range(3)])
            alpha = np.exp(logits) / np.exp(logits).sum()
            for m in range(3):
                expected = float(alpha[m]) * anchors.interests[d] @ anchors.projections[m]
                torch.testing.assert_close(table[d, m], expected)
        torch.testing.assert_close(anchors.table(torch.tensor([4, 2])), table[[4, 2]])


def test_the_shares_of_an_interest_sum_to_its_vector_before_any_projection_is_learned() -> None:
    anchors = Anchors(n_interests=5, n_anchors=3, d_anchor=4, tau=1.0)
    with torch.no_grad():
        anchors.interests.normal_()
        torch.testing.assert_close(anchors.table().sum(dim=1), anchors.interests)


def test_a_gate_leaves_out_scales_a_user_has_nothing_in() -> None:
    torch.manual_seed(1)
    fuse = MultiScale(n_scales=2, n_recurrent=2, d_anchor=4)
    states = torch.randn(2, 3, 2, 4)
    present = torch.tensor([[True, True, False], [True, False, False]])
    states = states * present[:, :, None, None]
    with torch.no_grad():
        fused = fuse(states, present)
    torch.testing.assert_close(fused[1], states[0, 1])
    torch.testing.assert_close(fused[2], torch.zeros(2, 4))
    assert not torch.allclose(fused[0], states[0, 0])


def test_the_recurrence_equals_one_user_and_one_step_at_a_time(bundle: Bundle, rng: np.random.Generator) -> None:
    config, idf = bundle.config, bundle.codebook.idf
    user = np.array([0, 0, 0, 2, 2, 3])
    bags = sum_pairs(np.arange(6), rng.integers(0, 50, 6).astype(np.uint32), np.ones(6, np.uint32), 6)
    periods = ScaleBags(user, np.array([3, 4, 9, 1, 2, 5]), np.array([1, 3, 1, 7, 1, 5]), bags)
    batch = collate(dict.fromkeys(config.scales, periods), 4, config, idf).scales["month"]
    torch.manual_seed(0)
    time = TimeAggregation(config.n_recurrent, config.d_anchor)
    values = torch.randn(6, config.n_recurrent, config.d_anchor)
    with torch.no_grad():
        states = time(values, batch, 4)
        for u in range(4):
            for r, cell in enumerate(time.cells):
                hidden = torch.zeros(1, config.d_anchor)
                for k in np.flatnonzero(user == u):
                    step = torch.cat([values[k, r] / batch.norm_sq[k].sqrt(), batch.features[k]])[None]
                    _, hidden = cell(step, hidden)
                torch.testing.assert_close(states[u, r], hidden[0])
    assert values.shape[-1] + N_FEATURES == step.shape[1]


def test_nobody_and_nothing_is_fine(bundle: Bundle) -> None:
    none = np.zeros(0, np.int64)
    empty = ScaleBags(none, none, none, Bags.empty())
    batch = collate(dict.fromkeys(bundle.config.scales, empty), 2, bundle.config, bundle.codebook.idf)
    with torch.inference_mode():
        smen = bundle.smen()
        assert smen(batch, smen.table()).abs().max() == 0


CUDA = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")]
)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_autocast_leaves_the_recurrence_in_float32(device: str) -> None:
    torch.manual_seed(4)
    time = TimeAggregation(n_recurrent=2, d_anchor=4).to(device)
    two, one = np.arange(2), np.ones(2, np.uint32)
    periods = ScaleBags(0 * two, two, 1 + two, sum_pairs(two, two.astype(np.uint32), one, 2))
    config = SmenConfig(3, 4, 1, ("day",), n_vectors=2, n_recurrent=2, d_anchor=4)
    batch = collate({"day": periods}, 1, config, np.ones(3, np.float32)).scales["day"].to(device)
    # Next to nothing is left of gradients this small in float16.
    values = (1e-4 * torch.randn(2, 2, 4, device=device)).requires_grad_()

    def outcome(cast: bool) -> list[torch.Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=cast):
            states = time(values, batch, 1)
            once = time.step(time.inputs(values, batch.norm_sq, batch.features)[:1], states)
        return [states, once, *torch.autograd.grad(1e-6 * (states.sum() + once.sum()), values)]

    plain, cast = outcome(cast=False), outcome(cast=True)
    assert float(plain[2].abs().max()) > 0
    for expected, found in zip(plain, cast, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

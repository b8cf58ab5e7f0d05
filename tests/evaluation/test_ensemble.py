"""Laws of the ensemble statistics, on ensembles whose answers are known."""

import math

import numpy as np
import pytest
import torch
from fakes_evaluation import FLOW, flow_fields, smooth_fields, trajectories_in, trajectories_of

from ups.core import measures
from ups.evaluation import evaluate as evaluate_module
from ups.evaluation.ensemble import (
    EnsembleScores,
    crps,
    ensemble_scores,
    evaluate_ensemble,
    rank_correlation,
    spread,
    spread_skill,
)

GRIDS = pytest.mark.parametrize("grid", [(20,), (6, 5)], ids=["line", "plane"])


def gaussian(members, trajectories=400, frames=2, grid=(20,), *, deviation=1.0, wrong=1.0, seed=0):
    """Members and truth from the same distribution, members `wrong` times as wide; the centre is not known to them."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(trajectories, frames, *grid, 1, generator=generator)
    noise = torch.randn(members + 1, *centre.shape, generator=generator)
    truth, drawn = centre + deviation * noise[0], centre + wrong * deviation * noise[1:]
    return drawn.double(), truth.double()


@GRIDS
@pytest.mark.parametrize("members", [2, 3, 10])
def test_a_calibrated_ensemble_has_spread_equal_to_skill(members, grid):
    scores = ensemble_scores(*gaussian(members, grid=grid))
    np.testing.assert_allclose(scores.spread_skill_TC, 1.0, atol=0.05)


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_an_ensemble_that_is_too_sure_lies_below_one(wrong):
    """K = 8 members w times as wide as the truth: sqrt(w^2 (1 + 1/8)) over sqrt(1 + w^2 / 8)."""
    exact = math.sqrt(wrong**2 * 9 / 8 / (1 + wrong**2 / 8))
    assert (exact < 1) == (wrong < 1)
    np.testing.assert_allclose(ensemble_scores(*gaussian(8, wrong=wrong)).spread_skill_TC, exact, atol=0.05)


def test_spread_in_proportion_to_the_error_ranks_perfectly():
    """Member m of trajectory b is the truth plus b times a pattern: the larger b, the larger both."""
    size = torch.tensor([3.0, 1.0, 4.0, 2.0, 5.0], dtype=torch.float64).reshape(1, 5, 1, 1, 1)
    pattern = torch.linspace(0.1, 1, 4, dtype=torch.float64).reshape(4, 1, 1, 1, 1)
    truth = torch.ones(5, 3, 6, 2, dtype=torch.float64)
    scores = ensemble_scores(truth + size * pattern, truth)
    np.testing.assert_allclose(scores.rank_TC, 1.0)
    np.testing.assert_allclose(rank_correlation(-scores.spread_BTC, scores.error_BTC), -1.0)


def test_ranks_are_taken_at_a_fixed_frame():
    """Spread and error that both grow with time tell nothing of a trajectory."""
    random = np.random.default_rng(0)
    growth = np.arange(1, 21).reshape(1, 20, 1)
    a, b = (growth + 0.1 * random.random((200, 20, 1)) for _ in range(2))
    assert abs(rank_correlation(a, b).mean()) < 0.05
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_ranks_see_order_alone_and_what_does_not_vary_ranks_nothing():
    random = np.random.default_rng(1)
    a, b = random.random((2, 30, 2, 1))
    np.testing.assert_allclose(rank_correlation(np.exp(5 * a), b), rank_correlation(a, b))
    assert (rank_correlation(np.ones_like(a), b) == 0).all()


def test_the_size_of_the_field_is_the_line_to_stay_above():
    """A spread of a tenth of the field, whatever the error, ranks as well as the field's size does, and no better."""
    random = torch.Generator().manual_seed(0)
    size = torch.rand(60, 1, 1, 1, generator=random).double() + 0.2
    truth = size * torch.randn(60, 1, 50, 1, generator=random).double()
    prediction = truth + 0.3 * size * torch.randn(60, 1, 50, 1, generator=random).double()
    members = prediction * torch.tensor([0.9, 1.1], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    scores = ensemble_scores(members, truth)
    np.testing.assert_allclose(scores.rank_TC, scores.size_rank_TC)
    assert scores.rank_TC.mean() > 0.8
    assert abs(scores.relative_rank_TC.mean()) < 0.3


@GRIDS
@pytest.mark.parametrize("members", [2, 5])
def test_crps_equals_its_definition(members, grid):
    drawn, truth = gaussian(members, 3, grid=grid)
    error = (drawn - truth).abs().mean(dim=0)
    pairs = sum((drawn[i] - drawn[j]).abs() for i in range(members) for j in range(members))
    expected = error - pairs / (2 * members * (members - 1))
    torch.testing.assert_close(crps(drawn, truth), expected.flatten(2, -2).mean(dim=-2))


def test_fair_crps_of_gaussians_does_not_depend_on_the_number_of_members():
    """Its expectation for a calibrated unit Gaussian is 1 / sqrt(pi)."""
    for members in (2, 4, 16):
        assert crps(*gaussian(members)).mean().item() == pytest.approx(1 / math.sqrt(math.pi), rel=0.02)


def test_crps_of_certain_members_is_the_absolute_error():
    truth = torch.randn(3, 2, 7, 1, dtype=torch.float64)
    members = (truth + 0.25).expand(4, -1, -1, -1, -1)
    torch.testing.assert_close(crps(members, truth), torch.full((3, 2, 1), 0.25, dtype=torch.float64))
    assert spread(members).max() == 0
    assert ensemble_scores(members, truth).summary()["spread_skill"] == 0


def test_crps_prefers_the_calibrated_ensemble():
    right, narrow, wide = (crps(*gaussian(8, wrong=wrong)).mean() for wrong in (1.0, 0.3, 3.0))
    assert right < narrow
    assert right < wide


def test_the_mean_of_members_is_better_than_one_of_them():
    """By the factor sqrt((1 + 1/K) / 2) for a calibrated ensemble."""
    summary = ensemble_scores(*gaussian(8)).summary()
    assert summary["nrmse"] / summary["member_nrmse"] == pytest.approx(math.sqrt((1 + 1 / 8) / 2), rel=0.02)


def test_a_perfect_ensemble_without_error_is_not_divided_by():
    spread_BTC, error_BTC = np.ones((3, 2, 1)), np.zeros((3, 2, 1))
    assert np.isinf(spread_skill(spread_BTC, error_BTC, 4)).all()


def test_statistics_of_a_flow_are_those_of_its_frames_and_channels(monkeypatch):
    fields = flow_fields(samples=5)
    calls = []

    def draw(initial, parameters, steps):
        assert parameters.shape == (len(initial), 1)
        calls.append(len(initial))
        places = [int((fields[:, 0] == each.numpy()).all(axis=(1, 2, 3)).argmax()) for each in initial]
        truth = torch.from_numpy(fields[places, 1 : steps + 1])
        return torch.stack([truth * factor for factor in (1.0, 1.2, 1.4)])

    trajectories = trajectories_in(FLOW, fields)
    whole = evaluate_ensemble(draw, trajectories)
    assert whole.spread_BTC.shape == (5, 4, 3)
    assert whole.members == 3
    np.testing.assert_allclose(whole.nrmse_BTC, 0.2, rtol=1e-5)
    np.testing.assert_allclose(whole.member_nrmse_BTC, 0.2, rtol=1e-5)
    monkeypatch.setattr(evaluate_module, "_BATCH_VALUES", 2 * fields[0].size)
    cut = evaluate_ensemble(draw, trajectories)
    assert calls == [5, 2, 2, 1]
    for name in vars(whole):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name))


def test_error_is_the_measure_that_everything_else_is_scored_with():
    fields = torch.from_numpy(smooth_fields(samples=4)).unsqueeze(-1)
    members = torch.stack([fields[:, :-1], fields[:, :-1] + 0.1])
    scores: EnsembleScores = ensemble_scores(members, fields[:, 1:])
    expected = measures.nrmse(members.mean(dim=0), fields[:, 1:])
    np.testing.assert_allclose(scores.nrmse_BTC, expected.numpy())
    assert evaluate_ensemble(
        lambda initial, parameters, steps: initial.unsqueeze(1).expand(-1, steps, -1, -1).repeat(2, 1, 1, 1, 1),
        trajectories_of(fields[..., 0].numpy()),
    ).summary()["nrmse"] == pytest.approx(measures.rollout_nrmse(fields[:, :1].expand(-1, 12, -1, -1), fields[:, 1:]))

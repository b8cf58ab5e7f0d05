"""Named metrics gathered in batches: the same numbers however the trajectories are cut."""

import math

import numpy as np
import pytest
import torch

from ups.core import measures
from ups.evaluation.metrics import Metrics, correlation_time, skill

GRIDS = pytest.mark.parametrize("grid", [(32,), (30, 26)], ids=["line", "plane"])


def pair(samples=7, frames=5, grid=(32,), channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(samples, frames, *grid, channels, generator=generator)
    return truth + 0.5 * torch.randn(truth.shape, generator=generator), truth


def collect(prediction, truth, sizes, dt=0.1):
    metrics = Metrics(dt)
    for p, u in zip(prediction.split(sizes), truth.split(sizes), strict=True):
        metrics.add(p, u)
    return metrics.scores()


@GRIDS
def test_cutting_into_batches_changes_nothing(grid):
    whole, cut = collect(*pair(grid=grid), sizes=[7]), collect(*pair(grid=grid), sizes=[1, 4, 2])
    assert cut.values == pytest.approx(whole.values, rel=1e-10)
    assert cut.curves.keys() == whole.curves.keys()
    for name in whole.curves:
        assert cut.curves[name] == pytest.approx(whole.curves[name], rel=1e-10)
    np.testing.assert_allclose(cut.nrmse_S, whole.nrmse_S)


def test_channels_are_told_apart_and_their_mean_is_the_score():
    prediction, truth = pair(channels=2, grid=(8, 6))
    prediction[..., 0] = truth[..., 0]
    scores = collect(prediction, truth, [7])
    assert scores.nrmse_C[0] == 0
    assert scores.nrmse_C[1] == pytest.approx(measures.rollout_nrmse(prediction[..., 1:], truth[..., 1:]), rel=1e-6)
    assert sum(scores.nrmse_C) / 2 == pytest.approx(scores.values["nrmse"])


@GRIDS
def test_values_are_the_measures_of_the_whole_set(grid):
    prediction, truth = pair(channels=2, grid=grid)
    p, u = prediction.double(), truth.double()
    low, middle, high = measures.frmse(p, u).mean(dim=(0, 2))
    expected = {
        "rmse": measures.rmse(p, u).mean(),
        "nrmse": measures.nrmse(p, u).mean(),
        "nrmse_median": measures.nrmse(p, u).mean(dim=(1, 2)).median(),
        "vrmse": measures.vrmse(p, u).mean(),
        "brmse": measures.boundary_rmse(p, u).mean(),
        "crmse": measures.crmse(p, u).mean(),
        "frmse_low": low,
        "frmse_middle": middle,
        "frmse_high": high,
        "max_error": measures.max_over_batch(p, u).mean(),
        "relative_l2": (p - u).norm() / u.norm(),
        "correlation_time": correlation_time(measures.pearson(p, u), 0.1).mean(),
    }
    assert collect(prediction, truth, [3, 4]).values == pytest.approx({k: float(v) for k, v in expected.items()})


def test_curves_have_one_number_per_frame():
    prediction, truth = pair(frames=5)
    scores = collect(prediction, truth, [7])
    assert scores.curves["nrmse"] == pytest.approx(
        measures.nrmse(prediction.double(), truth.double()).mean(dim=(0, 2)).tolist()
    )
    assert {len(values) for values in scores.curves.values()} == {5}


def test_perfect_prediction():
    _, truth = pair()
    values = collect(truth, truth, [7]).values
    assert values.pop("correlation_time") == pytest.approx(0.5)
    assert set(values.values()) == {0.0}


def test_a_trajectory_that_is_not_finite_counts_as_infinite_and_spares_the_median():
    prediction, truth = pair(samples=5)
    prediction[2, 3:] = math.nan
    scores = collect(prediction, truth, [2, 3])
    assert np.isinf(scores.nrmse_S).tolist() == [False, False, True, False, False]
    for name in ("nrmse", "rmse", "vrmse", "brmse", "crmse", "frmse_low", "max_error", "relative_l2"):
        assert scores.values[name] == math.inf
    assert math.isfinite(scores.values["nrmse_median"])
    assert math.isfinite(scores.values["correlation_time"])
    assert np.isinf(scores.curves["nrmse"]).tolist() == [False, False, False, True, True]
    assert np.isfinite(scores.curves["nrmse_median"]).all()


def test_correlation_time_is_the_first_frame_below():
    correlation = torch.tensor([[0.99, 0.79, 0.95, 0.1], [0.9, 0.85, 0.81, 0.8], [0.1, 0.9, 0.9, 0.9]])
    times = correlation_time(correlation.unsqueeze(-1), dt=0.05)[:, 0]
    assert times.tolist() == pytest.approx([0.10, 0.20, 0.05])


def test_skill():
    assert skill(0.0, 0.7) == 1
    assert skill(0.7, 0.7) == 0
    assert skill(1.4, 0.7) == -1

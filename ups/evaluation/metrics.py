"""The named metrics of a rollout, gathered from batches of trajectories in bounded memory.

Shapes: B samples of one batch, S samples in all, T frames, X the cells of all axes, C channels, K modes or shells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core import measures

CORRELATION_LOST = 0.8
"""Pearson correlation below which a prediction counts as unrelated to the truth"""
BAND = (0.1, 0.9)
"""quantiles over trajectories of the curves nrmse_low and nrmse_high"""


@dataclass(frozen=True)
class Scores:
    """What `Metrics` found: one float per name, one list per curve, and each trajectory's own nRMSE."""

    values: dict[str, float]
    curves: dict[str, list[float]]
    """by name, one number per predicted frame"""
    nrmse_S: NDArray[np.float64]
    """mean over frames and channels; inf where the prediction left the finite range"""
    nrmse_C: tuple[float, ...]
    """mean over trajectories and frames of each channel"""


class Metrics:
    """Collects predictions batch by batch; `scores` gives all metrics of everything collected.

    A prediction that is not finite counts as an infinite error, so that it cannot hide in a mean.
    """

    def __init__(self, dt: float) -> None:
        self._dt = dt
        self._per_sample: dict[str, list[Tensor]] = {name: [] for name in _PER_SAMPLE}
        self._mass_square_sum_TC: Tensor = torch.zeros(())
        self._power_sum_TKC: Tensor = torch.zeros(())
        self._max_TC: Tensor = torch.zeros(())
        self._error_square_sum = 0.0
        self._truth_square_sum = 0.0

    def add(self, prediction_BTXC: Tensor, truth_BTXC: Tensor) -> None:
        """Take in one batch; the number of frames, cells and channels is that of the batches before."""
        assert prediction_BTXC.shape == truth_BTXC.shape, (prediction_BTXC.shape, truth_BTXC.shape)
        p, u = prediction_BTXC.double(), truth_BTXC.double()
        for name, measure in _PER_SAMPLE.items():
            lost = 0.0 if name == "correlation" else torch.inf
            self._per_sample[name].append(torch.nan_to_num(measure(p, u), nan=lost, posinf=torch.inf))
        self._mass_square_sum_TC = self._mass_square_sum_TC + measures.mass_error(p, u).square().sum(dim=0)
        self._power_sum_TKC = self._power_sum_TKC + measures.spectral_error_power(p, u).sum(dim=0)
        self._max_TC = torch.maximum(self._max_TC, _infinite(measures.max_over_batch(p, u)))
        self._error_square_sum += (p - u).square().sum().item()
        self._truth_square_sum += u.square().sum().item()

    def scores(self) -> Scores:
        """All metrics. Root-after-mean and maximum run over every sample collected, not over one batch."""
        each = {name: torch.cat(parts) for name, parts in self._per_sample.items()}
        samples = len(each["nrmse"])
        bands_3 = _infinite(measures.frequency_bands(self._power_sum_TKC / samples)).mean(dim=(0, 2))
        nrmse_S = each["nrmse"].mean(dim=(1, 2)).numpy()
        # the floor keeps 0/0 (a zero truth, predicted as zero) at 0
        pooled = self._error_square_sum / max(self._truth_square_sum, np.finfo(np.float64).tiny)
        values = {
            "rmse": each["rmse"].mean(),
            "nrmse": nrmse_S.mean(),
            "nrmse_median": np.median(nrmse_S),
            "vrmse": each["vrmse"].mean(),
            "brmse": each["brmse"].mean(),
            "crmse": _infinite((self._mass_square_sum_TC / samples).sqrt()).mean(),
            **dict(zip(("frmse_low", "frmse_middle", "frmse_high"), bands_3, strict=False)),
            "max_error": self._max_TC.mean(),
            "relative_l2": math.sqrt(pooled) if math.isfinite(pooled) else math.inf,
            "correlation_time": correlation_time(each["correlation"], self._dt).mean(),
        }
        nrmse_ST = each["nrmse"].mean(dim=2).numpy()
        # whole trajectories: between a finite and an infinite error there is no number
        low_T, high_T = np.quantile(nrmse_ST, BAND, axis=0, method="nearest")
        curves = {
            "nrmse": each["nrmse"].mean(dim=(0, 2)),
            "nrmse_median": np.median(nrmse_ST, axis=0),
            "nrmse_low": low_T,
            "nrmse_high": high_T,
            "rmse": each["rmse"].mean(dim=(0, 2)),
            "correlation": each["correlation"].mean(dim=(0, 2)),
        }
        return Scores(
            values={name: float(value) for name, value in values.items()},
            curves={name: values_T.tolist() for name, values_T in curves.items()},
            nrmse_S=nrmse_S,
            nrmse_C=tuple(each["nrmse"].mean(dim=(0, 1)).tolist()),
        )


def correlation_time(correlation_STC: Tensor, dt: float) -> Tensor:
    """Physical time of the first frame whose correlation is below 0.8, as (S, C).

    Frame t (from 0) is the one (t + 1) dt after the given frame. A prediction that never falls below has the time
    of the last frame: a lower bound.
    """
    frames = correlation_STC.shape[1]
    lost_STC = correlation_STC < CORRELATION_LOST
    first_SC = torch.where(lost_STC.any(dim=1), lost_STC.float().argmax(dim=1), frames - 1)
    return (first_SC + 1).double() * dt


def skill(nrmse: float, nrmse_mean: float) -> float:
    """1 - nRMSE / nRMSE of the constant initial mean: 1 is perfect, 0 is what the mean alone reaches."""
    return 1 - nrmse / nrmse_mean if nrmse_mean > 0 else float("nan")


_PER_SAMPLE = {
    "rmse": measures.rmse,
    "nrmse": measures.nrmse,
    "vrmse": measures.vrmse,
    "brmse": measures.boundary_rmse,
    "correlation": measures.pearson,
}


def _infinite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=torch.inf, posinf=torch.inf)

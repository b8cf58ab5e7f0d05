"""Statistics of a predictor that draws: does its spread tell where it errs, and is it of the right size?

K members, B trajectories, T frames, X the cells of all axes, C channels, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core.measures import nrmse, rmse, spearman
from ups.data.task import Trajectories
from ups.evaluation.evaluate import batches

Draw = Callable[[Tensor, Tensor, int], Tensor]
"""draw(initial (B, X, C), parameters (B, P), steps) -> K rollouts from the same frames, (K, B, T, X, C)"""


@dataclass(frozen=True)
class EnsembleScores:
    """Of each trajectory, predicted frame and channel, in physical units; summaries below."""

    members: int
    spread_BTC: NDArray[np.float64]
    size_BTC: NDArray[np.float64]
    """rms over cells of the mean of the members: what a relative spread is relative to, known without the truth"""
    error_BTC: NDArray[np.float64]
    """RMSE of the mean of the members"""
    nrmse_BTC: NDArray[np.float64]
    """nRMSE of the mean of the members"""
    member_nrmse_BTC: NDArray[np.float64]
    """mean over the members of their own nRMSE: what a single draw is worth"""
    crps_BTC: NDArray[np.float64]

    @property
    def spread_skill_TC(self) -> NDArray[np.float64]:
        return spread_skill(self.spread_BTC, self.error_BTC, self.members)

    @property
    def rank_TC(self) -> NDArray[np.float64]:
        """Does the spread rank the trajectories by their error?"""
        return rank_correlation(self.spread_BTC, self.error_BTC)

    @property
    def relative_rank_TC(self) -> NDArray[np.float64]:
        """The same of what the score sees: spread over the size of the prediction against nRMSE."""
        return rank_correlation(self.spread_BTC / np.maximum(self.size_BTC, 1e-300), self.nrmse_BTC)

    @property
    def size_rank_TC(self) -> NDArray[np.float64]:
        """What `rank_TC` would be for a spread that only follows the size of the field: the line to stay above."""
        return rank_correlation(self.size_BTC, self.error_BTC)

    def summary(self) -> dict[str, float]:
        """One number each: the mean over frames and channels, and over trajectories where they are not compared."""
        return {
            "members": float(self.members),
            "nrmse": float(self.nrmse_BTC.mean()),
            "member_nrmse": float(self.member_nrmse_BTC.mean()),
            "crps": float(self.crps_BTC.mean()),
            "spread": float(self.spread_BTC.mean()),
            "spread_skill": float(self.spread_skill_TC.mean()),
            "rank_correlation": float(self.rank_TC.mean()),
            "relative_rank_correlation": float(self.relative_rank_TC.mean()),
            "size_rank_correlation": float(self.size_rank_TC.mean()),
        }


def evaluate_ensemble(draw: Draw, trajectories: Trajectories) -> EnsembleScores:
    """Every frame after the first predicted by `draw` from the first, a bounded number of trajectories at a time."""
    parts = []
    for fields_BTXC, parameters_BP in batches(trajectories):
        with torch.no_grad():
            members_KBTXC = draw(fields_BTXC[:, 0], parameters_BP, fields_BTXC.shape[1] - 1)
        parts.append(ensemble_scores(members_KBTXC.cpu(), fields_BTXC[:, 1:]))
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0]) if name != "members"
    }
    return EnsembleScores(members=parts[0].members, **joined)


def ensemble_scores(members_KBTXC: Tensor, truth_BTXC: Tensor) -> EnsembleScores:
    """All statistics of finite members, K >= 2, beside the truth."""
    assert members_KBTXC.shape[1:] == truth_BTXC.shape, (members_KBTXC.shape, truth_BTXC.shape)
    members_KBTXC, truth_BTXC = members_KBTXC.double(), truth_BTXC.double()
    mean_BTXC = members_KBTXC.mean(dim=0)
    own = torch.stack([nrmse(member_BTXC, truth_BTXC) for member_BTXC in members_KBTXC]).mean(dim=0)
    return EnsembleScores(
        members=len(members_KBTXC),
        spread_BTC=spread(members_KBTXC).numpy(),
        size_BTC=rmse(mean_BTXC, torch.zeros_like(mean_BTXC)).numpy(),
        error_BTC=rmse(mean_BTXC, truth_BTXC).numpy(),
        nrmse_BTC=nrmse(mean_BTXC, truth_BTXC).numpy(),
        member_nrmse_BTC=own.numpy(),
        crps_BTC=crps(members_KBTXC, truth_BTXC).numpy(),
    )


def spread(members_KBTXC: Tensor) -> Tensor:
    """Standard deviation over the members (K - 1), its rms over cells, as (B, T, C)."""
    return members_KBTXC.var(dim=0).flatten(2, -2).mean(dim=-2).sqrt()


def crps(members_KBTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """Continuous ranked probability score, mean over cells, as (B, T, C), in the unit of the field.

    The fair estimate E|x - u| - E|x - x'| / 2 with x' another member (C. A. T. Ferro, QJRMS 140, 2014): its
    expectation does not depend on K. For one certain member it would be the absolute error.
    """
    members = len(members_KBTXC)
    assert members >= 2, "one member has no spread"
    error = (members_KBTXC - truth_BTXC).abs().mean(dim=0)
    # sum over pairs of |x_i - x_j|: the k-th smallest is larger than k others and smaller than K - 1 - k
    rank_K = 2.0 * torch.arange(members, dtype=members_KBTXC.dtype) - (members - 1)
    pairs = torch.einsum("k,k...->...", rank_K, members_KBTXC.sort(dim=0).values)
    return (error - pairs / (members * (members - 1))).flatten(2, -2).mean(dim=-2)


def spread_skill(spread_BTC: NDArray[np.float64], error_BTC: NDArray[np.float64], members: int) -> NDArray[np.float64]:
    """Spread over error of the members' mean, both rms over trajectories, as (T, C): 1 for a calibrated ensemble.

    The factor (K + 1) / K counts the sampling error of a mean of K members (V. Fortin et al., J. Hydrometeorology
    15(4), 2014). Below 1 the ensemble is surer than it may be. inf where there is no error.
    """
    expected = (members + 1) / members * (spread_BTC**2).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(expected / (error_BTC**2).mean(axis=0))


def rank_correlation(first_BTC: NDArray[np.float64], second_BTC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation across trajectories at each fixed frame, (T, C), in [-1, 1].

    Errors and spreads both grow with time: pooled over frames they would correlate without telling anything of a
    trajectory. Values that do not vary rank nothing and count as 0.
    """
    return spearman(first_BTC, second_BTC)

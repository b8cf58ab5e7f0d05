"""Is one config really better than another? Statistics of a confirmation on fresh seeds and test trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEW_SEEDS = 5
"""below this many seeds an interval over seeds is too narrow to be trusted alone: the seeds must also agree"""


@dataclass(frozen=True)
class Comparison:
    """Challenger against reference on the same seeds and trajectories; improvements are positive when the
    challenger's error is smaller, in the unit of the error."""

    improvement: float
    """mean error of the reference minus that of the challenger, over seeds and trajectories"""
    low: float
    high: float
    """two-way resampling interval of the improvement, `CONFIDENCE` wide"""
    per_seed: tuple[float, ...]
    trajectories: int

    @property
    def seeds_agree(self) -> bool:
        """Every seed on its own shows an improvement."""
        return all(improvement > 0 for improvement in self.per_seed)

    @property
    def confirmed(self) -> bool:
        """The interval lies above zero, and with few seeds every one of them agrees."""
        return self.low > 0 and (len(self.per_seed) >= FEW_SEEDS or self.seeds_agree)

    @property
    def verdict(self) -> str:
        """One clause that says why it is or is not confirmed."""
        if self.confirmed:
            return "the interval excludes zero"
        if self.high < 0:
            return "it is worse than the reference"
        if self.low <= 0:
            return "the interval includes zero"
        return f"the seeds disagree in sign, and with fewer than {FEW_SEEDS} seeds all must agree"


def compare(challenger_NS: NDArray, reference_NS: NDArray, *, seed: int = 0) -> Comparison:
    """Difference of the mean errors with a two-way resampling interval over seeds and trajectories.

    Both configs were trained on the same N seeds and scored on the same S trajectories, so differences are paired
    on both axes; seeds and trajectories are drawn with replacement, independently of each other (the pigeonhole
    bootstrap of crossed factors: A. B. Owen, Annals of Applied Statistics 1(2), 2007). One draw fewer than there
    are seeds, or trajectories, because drawing all n understates the variance of a mean by (n-1)/n, a third at
    three seeds (P. J. McCarthy, C. B. Snowden, Vital and Health Statistics 2(95), 1985).

    Args:
        challenger_NS, reference_NS: error of every seed on every trajectory, (N, S), N >= 2 and S >= 2.
        seed: of the resampling; equal inputs give equal intervals.
    """
    assert challenger_NS.shape == reference_NS.shape, "the same seeds and trajectories on both sides"
    gain_NS = np.asarray(reference_NS, dtype=np.float64) - np.asarray(challenger_NS, dtype=np.float64)
    seeds, trajectories = gain_NS.shape
    assert seeds >= 2, "one seed says nothing about the spread over seeds"
    assert trajectories >= 2, "one trajectory says nothing about the spread over trajectories"
    assert np.isfinite(gain_NS).all(), "runs without a finite error are sorted out before"
    random = np.random.default_rng(seed)
    weight_RN = random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=RESAMPLES) / (seeds - 1)
    weight_RS = random.multinomial(trajectories - 1, np.full(trajectories, 1 / trajectories), size=RESAMPLES) / (
        trajectories - 1
    )
    mean_R = np.einsum("rs,rs->r", weight_RN @ gain_NS, weight_RS)
    low, high = np.quantile(mean_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Comparison(
        improvement=float(gain_NS.mean()),
        low=float(low),
        high=float(high),
        per_seed=tuple(float(gain) for gain in gain_NS.mean(axis=1)),
        trajectories=trajectories,
    )


def noise_floor(scores: list[float]) -> float | None:
    """Standard deviation (n - 1) of one config's score over seeds: what a change of seed alone does to it.

    None for fewer than two seeds, or if one of them diverged.
    """
    return float(np.std(scores, ddof=1)) if len(scores) > 1 and np.isfinite(scores).all() else None

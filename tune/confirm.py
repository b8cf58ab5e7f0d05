"""Is one config really better than another? Statistics of a confirmation on fresh seeds and test trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups.evaluation.paired import CONFIDENCE, FEW_SEEDS, paired

__all__ = ["CONFIDENCE", "FEW_SEEDS", "Comparison", "compare", "seed_deviation"]


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
    """Improvement of the mean error with a two-way resampling interval, see `ups.evaluation.paired`.

    Args:
        challenger_NS, reference_NS: error of every seed on every trajectory, (N, S), N >= 2 and S >= 2.
        seed: of the resampling; equal inputs give equal intervals.
    """
    found = paired(reference_NS, challenger_NS, seed=seed)
    return Comparison(
        improvement=found.difference,
        low=found.low,
        high=found.high,
        per_seed=found.per_seed,
        trajectories=found.trajectories,
    )


def seed_deviation(scores: list[float]) -> float | None:
    """Standard deviation (n - 1) of one config's score over seeds: what a change of seed alone does to it.

    None for fewer than two seeds, or if one of them diverged.
    """
    return float(np.std(scores, ddof=1)) if len(scores) > 1 and np.isfinite(scores).all() else None

"""Two predictors with the same seeds on the same trajectories: is one really better? R seeds, S trajectories.

`paired` speaks of a method, whose seeds are drawn like its trajectories; `paired_of_one_run` of a single trained run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEW_SEEDS = 5
"""below this many seeds an interval over seeds is too narrow to be trusted alone: the seeds must also agree"""


@dataclass(frozen=True)
class Paired:
    """Errors of the first predictor beside those of the second: differences are first minus second, ratios first
    over second. Where the first is better, the difference is below 0 and the ratio below 1."""

    difference: float
    """of the mean errors over seeds and trajectories, in the unit of the error"""
    low: float
    high: float
    """resampling interval of the difference, `CONFIDENCE` wide: two-way over seeds and trajectories, of one run
    over its trajectories alone"""
    per_seed: tuple[float, ...]
    """difference of each seed's mean errors"""
    trajectories: int
    ratio: float | None
    """of the mean errors; None if the second has none"""
    typical_ratio: float | None
    """geometric mean over seeds and trajectories of the ratio of two errors: no trajectory outweighs another;
    None unless every error is positive"""
    typical_low: float | None
    typical_high: float | None
    """resampling interval of the typical ratio"""

    @property
    def seeds_agree(self) -> bool:
        """Every seed on its own has the sign of the difference."""
        return all(each * self.difference > 0 for each in self.per_seed)

    @property
    def decided(self) -> bool:
        """The interval excludes zero, and with few seeds every one of them agrees."""
        return self._excludes_zero and (len(self.per_seed) >= FEW_SEEDS or self.seeds_agree)

    @property
    def reason(self) -> str:
        """One clause that says why it is or is not decided."""
        if not self._excludes_zero:
            return "the interval includes zero"
        if not self.decided:
            return f"the seeds disagree in sign, and with fewer than {FEW_SEEDS} seeds all must agree"
        return "the interval excludes zero"

    @property
    def _excludes_zero(self) -> bool:
        return self.high < 0 or self.low > 0


def paired(first_RS: ArrayLike, second_RS: ArrayLike, *, seed: int = 0) -> Paired:
    """Difference and ratio of two predictors' errors with two-way resampling intervals over seeds and trajectories.

    Args:
        first_RS, second_RS: finite error of every seed on every trajectory, (R, S), R >= 2 and S >= 2; the same
            seeds and trajectories on both sides.
        seed: of the resampling; equal inputs give equal intervals.
    """
    first_RS, second_RS = np.asarray(first_RS, dtype=np.float64), np.asarray(second_RS, dtype=np.float64)
    assert len(first_RS) >= 2, "one seed says nothing about the spread over seeds"
    return _paired(first_RS, second_RS, seed)


def paired_of_one_run(first_S: ArrayLike, second_S: ArrayLike, *, seed: int = 0) -> Paired:
    """The same of one trained run: its interval is over trajectories alone and says nothing of other seeds.

    Args:
        first_S, second_S: finite error on every trajectory, S >= 2, the same trajectories on both sides.
        seed: of the resampling; equal inputs give equal intervals.
    """
    first_S, second_S = np.asarray(first_S, dtype=np.float64), np.asarray(second_S, dtype=np.float64)
    return _paired(first_S[None], second_S[None], seed)


def interval_of_mean(error_S: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """Resampling interval, `CONFIDENCE` wide, of one run's mean error over trajectories; says nothing of other seeds.

    Args:
        error_S: finite error on every trajectory, S >= 2.
        seed: of the resampling.
    """
    return _interval(np.asarray(error_S, dtype=np.float64)[None], seed)


def _paired(first_RS: NDArray[np.float64], second_RS: NDArray[np.float64], seed: int) -> Paired:
    assert first_RS.shape == second_RS.shape, "the same seeds and trajectories on both sides"
    low, high = _interval(first_RS - second_RS, seed)
    positive = bool((first_RS > 0).all() and (second_RS > 0).all())
    logs_RS = np.log(first_RS) - np.log(second_RS) if positive else None
    log_low, log_high = _interval(logs_RS, seed) if logs_RS is not None else (None, None)
    mean = float(second_RS.mean())
    return Paired(
        difference=float((first_RS - second_RS).mean()),
        low=low,
        high=high,
        per_seed=tuple((first_RS - second_RS).mean(axis=1).tolist()),
        trajectories=first_RS.shape[1],
        ratio=float(first_RS.mean()) / mean if mean > 0 else None,
        typical_ratio=_exp(float(logs_RS.mean()) if logs_RS is not None else None),
        typical_low=_exp(log_low),
        typical_high=_exp(log_high),
    )


def _interval(gain_RS: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Resampling interval of a mean, often of paired differences: two-way, of one seed over its trajectories alone.

    Seeds and trajectories are drawn with replacement, independently of each other (the pigeonhole bootstrap of
    crossed factors: A. B. Owen, Annals of Applied Statistics 1(2), 2007). One draw fewer than there are seeds, or
    trajectories, because drawing all n understates the variance of a mean by (n-1)/n, a third at three seeds
    (P. J. McCarthy, C. B. Snowden, Vital and Health Statistics 2(95), 1985).
    """
    seeds, trajectories = gain_RS.shape
    assert trajectories >= 2, "one trajectory says nothing about the spread over trajectories"
    assert np.isfinite(gain_RS).all(), "runs without a finite error are sorted out before"
    random = np.random.default_rng(seed)
    weight_NR = _drawn(random, seeds) if seeds > 1 else np.ones((RESAMPLES, 1))
    weight_NS = _drawn(random, trajectories)
    mean_N = np.einsum("ns,ns->n", weight_NR @ gain_RS, weight_NS)
    low, high = np.quantile(mean_N, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _drawn(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Weights of so many things in every resample, (RESAMPLES, count)."""
    return random.multinomial(count - 1, np.full(count, 1 / count), size=RESAMPLES) / (count - 1)


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)

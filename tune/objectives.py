"""What a study came to: which trials hold the constraints, the best of them, the Pareto front, the noise floor.

Pure functions of the records. The sampler and the scheduler decide what is tried; nothing here has a say in that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from tune.confirm import CONFIDENCE, seed_deviation
from ups.core.types import Status

if TYPE_CHECKING:
    from tune.space import SearchConfig
    from tune.study import TrialRecord

NOISE = "noise"
"""origin of a trial that trains the base on a further seed: it measures the base, and is never the best"""
HEADINGS = {"inference_ms": "ms a step", "parameters": "weights", "peak_memory_gib": "peak GiB"}
"""of what is measured beside the error"""


def further_metrics(config: SearchConfig) -> tuple[str, ...]:
    """What a reader of the study asks for beside the error: weights, then further objectives and constraints."""
    asked = [*(objective.metric for objective in config.objectives), *config.constraints]
    return tuple(dict.fromkeys(["parameters", *(name for name in asked if name in HEADINGS)]))


def broken(metrics: Mapping[str, float], config: SearchConfig) -> tuple[str, ...]:
    """In words, each constraint that `metrics` does not hold; one whose metric was not measured is not held."""
    found, excess = [], config.violations(metrics)
    for name, limit in config.constraints.items():
        if name not in metrics:
            found.append(f"{name} was not measured")
        elif excess[name] > 0:
            found.append(f"{name} {metrics[name]:.4g}, at most {limit.max:.4g}")
    return tuple(found)


def shown_metric(name: str, record: TrialRecord) -> str:
    """A metric of a trial as a cell: weights whole, others with four digits."""
    if name == "parameters":
        return "–" if record.parameters is None else f"{record.parameters:,}"
    return f"{record.metrics[name]:.4g}" if name in record.metrics else "–"


def remarks(record: TrialRecord, config: SearchConfig) -> tuple[str, ...]:
    """Why a trial ended, or which constraints it breaks although it ran to its end."""
    reason = (record.reason,) if record.reason else ()
    if record.state is not Status.COMPLETE:
        return reason
    return (*reason, *(f"breaks a constraint: {each}" for each in broken(record.metrics, config)))


def is_feasible(record: TrialRecord, config: SearchConfig) -> bool:
    """Whether the trial was measured to hold every constraint."""
    return not broken(record.metrics, config)


def is_eligible(record: TrialRecord, config: SearchConfig) -> bool:
    """Whether the trial may be the best: it ran to its end, holds the constraints and is no repetition of the base."""
    complete = record.state is Status.COMPLETE and record.score is not None
    return complete and record.origin != NOISE and is_feasible(record, config)


def scored(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that ran to their end with a finite score, without repetitions of the base: what parameters explain."""
    return [
        record
        for record in records
        if record.state is Status.COMPLETE
        and record.score is not None
        and math.isfinite(record.score)
        and record.origin != NOISE
    ]


def best_of(records: Sequence[TrialRecord], config: SearchConfig) -> TrialRecord | None:
    """The eligible trial with the smallest score, of equals the first."""
    eligible = [record for record in records if is_eligible(record, config)]
    return min(eligible, key=lambda record: (record.score, record.number), default=None)


def foremost(records: Sequence[TrialRecord], config: SearchConfig) -> tuple[TrialRecord, ...]:
    """As many of the best as are confirmed; of several objectives the Pareto front as well, which of one is whoever
    ties with the best."""
    eligible = [record for record in records if is_eligible(record, config)]
    best = sorted(eligible, key=lambda record: (record.score, record.number))[: config.confirm.top]
    front = pareto_front(records, config) if len(config.objectives) > 1 else ()
    found = {record.number: record for record in (*best, *front)}
    return tuple(found.values())


def pareto_front(records: Sequence[TrialRecord], config: SearchConfig) -> tuple[TrialRecord, ...]:
    """The eligible trials that no other one beats in every objective, by score.

    A trial is dominated by another that is nowhere worse and somewhere better. Trials of equal values do not dominate
    each other, and all of them are on the front. One that lacks an objective cannot be compared, and is not.
    """
    names = [objective.metric for objective in config.objectives[1:]]
    comparable = [
        record for record in records if is_eligible(record, config) and all(name in record.metrics for name in names)
    ]
    values = {record.number: (record.score or 0.0, *(record.metrics[name] for name in names)) for record in comparable}
    front: list[TrialRecord] = []
    # whatever dominates a trial comes before it in this order, and is on the front or dominated by what is
    for record in sorted(comparable, key=lambda record: (values[record.number], record.number)):
        if not any(dominates(values[other.number], values[record.number]) for other in front):
            front.append(record)
    return tuple(sorted(front, key=lambda record: (record.score, record.number)))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere larger than `other` and somewhere smaller."""
    return tuple(one) != tuple(other) and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


@dataclass(frozen=True)
class Reference:
    """What the best trial of a study is measured with."""

    record: TrialRecord
    name: str
    """`golden` or `base`"""


def reference_of(records: Iterable[TrialRecord], goldens: Collection[str]) -> Reference | None:
    """The trial of a golden config, of several the best, or else the base; None while none has run to its end.

    Args:
        goldens: origins of the trials that train one, `Plan.goldens`.
    """
    complete = [record for record in records if record.state is Status.COMPLETE and record.score is not None]
    golden = min(
        (record for record in complete if record.origin in goldens),
        key=lambda record: (record.score, record.number),
        default=None,
    )
    if golden is not None:
        return Reference(golden, "golden")
    return next((Reference(record, "base") for record in complete if record.number == 0), None)


@dataclass(frozen=True)
class NoiseFloor:
    """The base's validation rollout_nrmse over seeds: what a change of the seed alone does."""

    mean: float
    sd: float
    """standard deviation (n - 1) over the seeds"""
    n: int
    lost: int = 0
    """seeds on which the base did not run to its end; they are in none of the numbers"""

    @property
    def threshold(self) -> float:
        """Lower end of the 95 % prediction interval for one further seed of the base.

        mean - t(0.975, n - 1) sd sqrt(1 + 1/n), for scores that are normal over seeds (W. Q. Meeker, G. J. Hahn and
        L. A. Escobar, Statistical Intervals, 2nd ed., Wiley 2017, chapter 4).
        """
        quantile = float(stdtrit(self.n - 1, 0.5 + CONFIDENCE / 2))
        return self.mean - quantile * self.sd * float(np.sqrt(1 + 1 / self.n))

    def is_improvement(self, score: float) -> bool:
        """Whether `score` lies below what one further seed of the base could well have given.

        The smallest score of many trials is still optimistic: it is the luckiest of as many draws, and the interval
        is for one. So this is a necessary condition, and `ups promote` decides on fresh seeds.
        """
        return score < self.threshold

    def claim(self, score: float) -> str:
        """One clause on whether `score` says anything that a change of the seed does not."""
        base = f"the base has {self.mean:.4g} ± {self.sd:.2g} over {self.n} seeds"
        if self.lost:
            base += f" and did not run to its end on {self.lost}"
        if self.is_improvement(score):
            return f"better than noise: {score:.4g} is below {self.threshold:.4g} ({base}); `ups promote` confirms it"
        return f"within the noise floor: {score:.4g} is not below {self.threshold:.4g} ({base})"


def noise_floor(records: Sequence[TrialRecord]) -> NoiseFloor | None:
    """From trial 0, the base, and its repetitions on further seeds; None for fewer than two that ran to their end."""
    ended = [
        record
        for record in records
        if (record.number == 0 or record.origin == NOISE) and record.state not in (Status.RUNNING, Status.INTERRUPTED)
    ]
    scores = [record.score for record in ended if record.state is Status.COMPLETE and record.score is not None]
    deviation = seed_deviation(scores)
    if deviation is None:
        return None
    return NoiseFloor(float(np.mean(scores)), deviation, len(scores), len(ended) - len(scores))


def claim(records: Sequence[TrialRecord], config: SearchConfig) -> str | None:
    """Whether the best trial is better than a change of the seed; None if that is not known, or it is the base."""
    best, floor = best_of(records, config), noise_floor(records)
    if best is None or best.score is None or best.number == 0 or floor is None:
        return None
    return floor.claim(best.score)

"""Milestone ASHA: stops a trial at a milestone where others did clearly better.

Successive halving in its asynchronous, stopping form (L. Li et al., A System for Massively Parallel Hyperparameter
Tuning, MLSys 2020), judged on arrival. Rungs are shares of a stage and not epochs: trials whose stages have other
lengths are compared where they have done the same part of their work, and with nothing but each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass

from tune.trial import milestone_key


@dataclass(frozen=True)
class Verdict:
    """What is decided at a milestone."""

    stop: bool
    reason: str = ""


GO_ON = Verdict(stop=False)


@dataclass(frozen=True)
class Milestone:
    index: int
    stage: str
    share: float

    @property
    def key(self) -> str:
        return milestone_key(self.stage, self.share)


class MilestoneAsha:
    """The rungs of a search and the rule on them; knows nothing of Ray.

    A newcomer goes on when it is among the best `keep` of all that have arrived at the milestone, itself included.
    Nobody is stopped before about `1/keep` have arrived, nor at the end of its own last stage: nothing is left to
    save there. A trial never arrives at a milestone of a stage that is off in it, and is not missed there.

    Where the number of weights is an objective as well, those count as better that are so in both.
    """

    def __init__(self, milestones: Mapping[str, tuple[float, ...]], keep: float) -> None:
        self.milestones = tuple(
            Milestone(index, stage, share)
            for index, (stage, share) in enumerate(
                (stage, share) for stage, shares in milestones.items() for share in shares
            )
        )
        self.keep = keep
        self.minimum_arrivals = max(2, round(1 / keep))
        self._by_key = {milestone.key: milestone for milestone in self.milestones}
        self._scores: list[list[float]] = [[] for _ in self.milestones]
        self._sized: list[list[tuple[float, float]]] = [[] for _ in self.milestones]
        self._recorded: set[tuple[int, int]] = set()

    def milestone(self, stage: str, share: float) -> Milestone | None:
        """The milestone at exactly this place, if there is one."""
        return self._by_key.get(milestone_key(stage, share))

    def arrivals(self, index: int) -> tuple[float, ...]:
        """Every score that was recorded at a milestone, best first."""
        return tuple(self._scores[index])

    def is_recorded(self, number: int, index: int) -> bool:
        return (number, index) in self._recorded

    def record(self, number: int, index: int, score: float, weights: float = 0.0) -> None:
        """Put an arrival on its rung, once: a second arrival, or one that is not finite, changes nothing.

        Args:
            weights: number of weights, where that is an objective; 0 where it is not.
        """
        if index < len(self.milestones) and math.isfinite(score) and not self.is_recorded(number, index):
            self._recorded.add((number, index))
            insort(self._scores[index], score)
            if weights:
                self._sized[index].append((score, weights))

    def judge(
        self,
        number: int,
        index: int,
        score: float,
        *,
        protected: bool = False,
        at_end: bool = False,
        weights: float = 0.0,
    ) -> Verdict:
        """Decide on an arrival by those on the rung, and by itself whether it is recorded there or not.

        Args:
            protected: is compared with, and never stopped.
            at_end: the trial has nothing left to train.
            weights: as in `record`.
        """
        milestone = self.milestones[index]
        if not math.isfinite(score):
            return Verdict(stop=not protected, reason=f"score {score} at {milestone.key}")
        arrived = self._scores[index]
        itself = 0 if self.is_recorded(number, index) else 1
        count = len(arrived) + itself
        places = max(1, math.floor(self.keep * count + 0.5))
        if weights:
            better = sum(other < score and size <= weights for other, size in self._sized[index])
        else:
            better = bisect_left(arrived, score)
        if protected or at_end or count < self.minimum_arrivals or better < places:
            return GO_ON
        limit = "" if weights else f", up to {arrived[places - 1]:.4g}"
        return Verdict(
            stop=True,
            reason=f"score {score:.4g} at {milestone.key} is number {better + 1} of {count} that arrived; "
            f"the best {places} go on{limit}",
        )

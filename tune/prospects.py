"""What one more trial below a prefix of the stage tree is expected to bring, and what it costs, both estimated from the
trials of the study.

Scores are logarithms: a gain is what the best score falls by.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from tune.levels import STAGES
from tune.prefixes import Node, step_of

_MEMORY = 300
"""latest outcomes that an expectation rests on"""
_PRIOR_GAIN, _PRIOR_SPREAD, _PRIOR_WEIGHT = -0.02, 0.1, 3.0
"""of the logarithm of the score, before anything is known"""
STRIKES = 3
"""trials below a prefix that all were spoiled, after which nothing is expected of it"""
_PRIOR_REST = -0.2
"""of the logarithm of what a trial gains from a milestone to its end"""
_NOT_AGAIN = 0.5
"""chance that a prefix which is taken up again is not stopped once more"""

NOMINAL_SECONDS = {"operator": 50.0, "diff_residual": 30.0, "consistency_distill": 15.0, "steady_prior": 30.0}
"""of a stage where measured times may not decide: their ratios are those of an ordinary run"""
_NOMINAL_SEARCH = 5.0


class Prospects:
    """Expected improvement of the best score and expected seconds, prefix by prefix."""

    def __init__(self, levels: Sequence[int], stages: Sequence[str], *, nominal: bool) -> None:
        """
        Args:
            levels: place in `STAGES` where each level of the tree begins.
            stages: that a trial has.
            nominal: fixed costs instead of measured ones.
        """
        self._levels, self._stages, self._nominal = levels, stages, nominal
        self._gains: list[deque[float]] = [deque(maxlen=_MEMORY) for _ in levels]
        self._gain_arrays: list[NDArray[np.float64] | None] = [None for _ in levels]
        self._spoiled: list[deque[bool]] = [deque(maxlen=_MEMORY) for _ in levels]
        self._rest: dict[int, deque[float]] = {}
        """step of a milestone -> final minus score there, of the complete trials that passed it"""
        self._costs: list[deque[float]] = [deque(maxlen=_MEMORY) for _ in range(len(levels) + 1)]
        self._stage_seconds: dict[str, deque[float]] = {stage: deque(maxlen=_MEMORY) for stage in STAGES}
        self._roots_ended = 0

    # ------------------------------------------------------------------ learning

    def note_stage(self, stage: str, seconds: float) -> None:
        """A whole stage took so long."""
        self._stage_seconds[stage].append(seconds)

    def note_cost(self, branched: int, seconds: float) -> None:
        """A trial that branched at a level took so long."""
        self._costs[branched + 1].append(seconds)

    def note_root(self) -> None:
        """A trial that opened a root ended."""
        self._roots_ended += 1

    def note_spoiled(self, node: Node, is_spoiled: bool) -> None:
        """Whether a trial that branched above, and passed the node, came to nothing that counts."""
        self._spoiled[node.level].append(is_spoiled)
        node.spoiled += is_spoiled

    def note_gain(self, node: Node, gain: float) -> None:
        """Final minus own score of a trial below the node."""
        node.gains.append(gain)
        self._gains[node.level].append(gain)
        self._gain_arrays[node.level] = None

    def note_rest(self, milestone: str, rest: float) -> None:
        """Final minus score at a milestone of a complete trial."""
        self._rest.setdefault(step_of(milestone), deque(maxlen=_MEMORY)).append(rest)

    # ------------------------------------------------------------------ gains

    def gain(self, node: Node, best: float, roots: Sequence[Node]) -> float:
        """Expected improvement of the best score.

        Args:
            best: score so far.
            roots: the open ones.
        """
        if node.level < 0:
            return self._of_a_root(roots)
        if node.stopped is not None:
            return self._of_stopped(node, *node.stopped, best)
        assert node.score is not None
        # what the latest trials gained below any prefix of this level, had they been here, beside a normal prior
        above = node.score - best
        pooled = self._gain_arrays[node.level]
        if pooled is None:
            pooled = self._gain_arrays[node.level] = np.array(self._gains[node.level])
        known = float(np.maximum(0.0, -above - pooled).sum())
        prior = _expected_improvement(best, node.score + _PRIOR_GAIN, _PRIOR_SPREAD)
        expected = (known + _PRIOR_WEIGHT * prior) / (len(pooled) + _PRIOR_WEIGHT)
        # none of its own improved on what is the best: the chance that the next one does falls as 1/n
        return self._sound_share(node) * expected * _PRIOR_WEIGHT / (len(node.gains) + _PRIOR_WEIGHT)

    def _of_a_root(self, roots: Sequence[Node]) -> float:
        """Of n independent draws the next is a record with chance 1/(n + 1), and then by about the distance of the
        best ones from each other (N. Glick, Breaking records and breaking boards, 1978)."""
        bests = sorted(node.best for node in roots if node.best is not None)[:3]
        step = (bests[-1] - bests[0]) / (len(bests) - 1) if len(bests) > 1 else _PRIOR_REST
        return max(abs(step), 0.01) / (self._roots_ended + 1)

    def _of_stopped(self, node: Node, step: int, score: float, best: float) -> float:
        """Of taking it up where it was stopped: it is expected to gain what others gained from there on."""
        rest = self._rest.get(step, ())
        known = sum(max(0.0, best - score - each) for each in rest)
        prior = _expected_improvement(best, score + _PRIOR_REST, -_PRIOR_REST)
        expected = (known + _PRIOR_WEIGHT * prior) / (len(rest) + _PRIOR_WEIGHT)
        return expected * _NOT_AGAIN**node.stops

    def _sound_share(self, node: Node) -> float:
        """Share of the trials below that come to a score which counts; none after enough that did not."""
        if not node.gains and node.spoiled >= STRIKES:
            return 0.0
        pooled = self._spoiled[node.level]
        usual = (len(pooled) - sum(pooled) + 1) / (len(pooled) + 1)
        return (len(node.gains) + _PRIOR_WEIGHT * usual) / (len(node.gains) + node.spoiled + _PRIOR_WEIGHT)

    # ------------------------------------------------------------------ the order of what is compared

    def usual_gain(self, level: int) -> float:
        """Of trials below any prefix of a level."""
        pooled = self._gains[level]
        return fmean(pooled) if pooled else _PRIOR_GAIN

    def end_of_stopped(self, node: Node) -> float:
        """Score that a stopped one would come to."""
        assert node.stopped is not None
        rest = self._rest.get(node.stopped[0], ())
        usual = (sum(rest) + _PRIOR_WEIGHT * _PRIOR_REST) / (len(rest) + _PRIOR_WEIGHT)
        return node.stopped[1] + usual

    # ------------------------------------------------------------------ costs

    def cost(self, node: Node) -> float | None:
        """Seconds of one more trial below the prefix; None while nothing is known."""
        below = self._cost_at(node.level)
        if node.stopped is None:
            return below
        stage, share = STAGES[node.stopped[0] // 1000], node.stopped[0] % 1000 / 999
        measured = self._stage_seconds[stage]
        whole = _nominal(stage) if self._nominal or not measured else fmean(measured)
        return (below or 0.0) + (1 - share) * whole

    def _cost_at(self, level: int) -> float | None:
        """Seconds that a trial takes which branches at `level`; None while nothing is known."""
        first = self._levels[level + 1]
        stages = [stage for stage in self._stages if STAGES.index(stage) >= first]
        if self._nominal:
            return sum(_nominal(stage) for stage in stages)
        measured = self._costs[level + 1]
        if len(measured) >= 3:
            return fmean(measured)
        known = [fmean(self._stage_seconds[stage]) for stage in stages if self._stage_seconds[stage]]
        return sum(known) if known else None


def _nominal(stage: str) -> float:
    return NOMINAL_SECONDS.get(stage, _NOMINAL_SEARCH)


def _expected_improvement(best: float, mean: float, spread: float) -> float:
    """E[max(0, best - y)] for a normal y (J. Mockus, 1978)."""
    z = (best - mean) / spread
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return spread * (z * 0.5 * math.erfc(-z / math.sqrt(2)) + density)

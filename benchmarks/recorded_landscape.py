"""Recorded learning curves spread over a whole space: every config has one, and its values say which.

The table of `stage_table.py` has 3,456 runs, too few for a search of 10,000 trials. Here the values of the names of a
stage say how good that stage is, by a made-up smooth function, and it takes the recorded curve of that rank. Times and
shapes are real; which config has them is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
from replay_table import Mark, StageRun, Table
from stage_grid import GROUPS

from tune.checks import random_value
from tune.domain import Domain, same
from tune.levels import STAGES, levels_of
from tune.space import Space
from ups.config import RunConfig, stages_of
from ups.core.types import Status

RANKS = 10**6
OFF = -1
_DRAWS = 500
"""random configs by which ranks come out evenly spread"""
_TILT = 0.05
"""logarithm of a score from the first to the last rank: no two configs score the same"""


class Landscape:
    """What a run of any config reports, as `replay_table.Table` says it for those of its grid.

    The path of a config has its rank in each of the table's stages, below `RANKS`, best first; `OFF` for a stage that
    it does not have.
    """

    finals = (0.0,)
    """a search never comes to the best there could be"""

    def __init__(self, space: Space, table: Table, *, shortest: float) -> None:
        """
        Args:
            shortest: seconds of the shortest complete operator stage; everything is stretched alike.
        """
        self._space, self._table = space, table
        levels = levels_of(space)
        self._names = {stage: [name for name in levels if STAGES[levels[name]] == stage] for stage in GROUPS}
        self._counts = [len(combinations) for combinations in table.levels.values()]
        self._children: dict[tuple[int, ...], list[int]] = {}
        complete = [self._node((index,)) for index in self._best_first(())]
        self._stretch = shortest / min(run.seconds for run in complete if run.status is Status.COMPLETE)
        random = np.random.default_rng(0)
        drawn = [space.draw(lambda name, domain: random_value(domain, random)) for _ in range(_DRAWS)]
        self._spread = {
            stage: sorted(self._quality(names, {**space.base_values, **values}) for values in drawn)
            for stage, names in self._names.items()
        }

    def path_of(self, config: RunConfig) -> tuple[int, ...]:
        flat, stages = config.flat(), stages_of(config)
        return tuple(self._rank(stage, flat) if stage in stages else OFF for stage in GROUPS)

    def run(self, path: tuple[int, ...]) -> list[StageRun]:
        """The stages of a run in their order, up to the one that did not complete."""
        node: tuple[int, ...] = ()
        stages: list[StageRun] = []
        tilt = 1.0
        for rank in path:
            children = self._best_first(node)
            node = (*node, children[0 if rank == OFF else rank * len(children) // RANKS])
            if rank == OFF:
                continue
            tilt *= exp(_TILT * (rank / RANKS - 0.5))
            stages.append(self._stretched(self._node(node), tilt))
            if stages[-1].status is not Status.COMPLETE:
                break
        return stages

    def _node(self, node: Sequence[int]) -> StageRun:
        return self._table.run((*node, *[0] * (len(GROUPS) - len(node))))[len(node) - 1]

    def _best_first(self, above: tuple[int, ...]) -> list[int]:
        """The recorded nodes below another one; those that did not complete come last."""
        if above not in self._children:

            def goodness(index: int) -> tuple[bool, float]:
                run = self._node((*above, index))
                return run.status is not Status.COMPLETE, run.marks[-1].score if run.marks else 0.0

            self._children[above] = sorted(range(self._counts[len(above)]), key=goodness)
        return self._children[above]

    def _stretched(self, run: StageRun, tilt: float) -> StageRun:
        return replace(
            run,
            marks=tuple(Mark(mark.seconds * self._stretch, mark.share, mark.score * tilt) for mark in run.marks),
            seconds=run.seconds * self._stretch,
            latents_seconds=run.latents_seconds * self._stretch,
        )

    def _rank(self, stage: str, values: Mapping[str, Any]) -> int:
        spread = self._spread[stage]
        shares = np.linspace(0.0, 1.0, len(spread))
        return int(np.interp(self._quality(self._names[stage], values), spread, shares) * (RANKS - 1))

    def _quality(self, names: Sequence[str], values: Mapping[str, Any]) -> float:
        """Weighted squared distance from a made-up best place; small is good."""
        total = 0.0
        for name in names:
            place, weight = np.frombuffer(hashlib.sha256(name.encode()).digest()[:2], np.uint8) / 255
            if name in values:
                total += weight**2 * (_position(self._space.domains[name], values[name]) - place) ** 2
        return float(total)


def _position(domain: Domain, value: Any) -> float:
    """Where a value lies in its domain, from 0 to 1; one that the base alone has lies in the middle."""
    if not domain.contains(value):
        return 0.5
    if domain.choice is not None:
        index = next(index for index, option in enumerate(domain.choice) if same(option, value))
        return index / max(1, len(domain.choice) - 1)
    low, high = domain.bounds
    if domain.log:
        return log(value / low) / log(high / low)
    return (value - low) / (high - low)

"""What trials have in common down to a level of the stage tree, and how far a trial came along the stages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tune.domain import Value
from tune.levels import STAGES
from tune.trial import Outcome

_SMALLEST = 1e-300


@dataclass(eq=False)
class Node:
    """A prefix: what some trials have in common down to a level."""

    level: int
    params: dict[str, Value]
    """of this level alone"""
    above: Node | None
    number: int
    """of the trial that opened it"""
    score: float | None = None
    """at the end of its stage"""
    best: float | None = None
    """of a complete, feasible trial through it"""
    is_open: bool = False
    """a trial came through it: its stage is finished, and nobody below waits for it"""
    is_exhausted: bool = False
    """everything below it was tried"""
    running: int = 0
    gains: list[float] = field(default_factory=list)
    """final minus own score of the trials that branched here"""
    stopped: tuple[int, float] | None = None
    """step and score of the milestone at which its stage was stopped; its checkpoint can be taken up there"""
    stops: int = 0
    """how often"""
    spoiled: int = 0
    """trials that diverged below, or broke a constraint"""
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def prefix(self) -> dict[str, Value]:
        """Values of every name down to this level."""
        return {} if self.above is None else {**self.above.prefix, **self.params}


def furthest(outcome: Outcome) -> tuple[int, float | None]:
    """How far it came, as a number that grows along the stages, and its score there."""
    if not outcome.milestones:
        return 0, None
    key = max(outcome.milestones, key=step_of)
    return step_of(key), log_score(outcome.milestones[key])


def step_of(milestone: str) -> int:
    stage, share = milestone.split(":")
    return 1000 * STAGES.index(stage) + round(999 * float(share))


def last_stage(outcome: Outcome) -> str:
    """In which it ended."""
    return last_of(outcome.stage_seconds) or next(reversed([*outcome.milestones]), "operator:1").split(":")[0]


def last_of(stages: Mapping[str, Any]) -> str | None:
    return next(reversed([*stages]), None)


def key_of(params: Mapping[str, Value]) -> str:
    return json.dumps(params, sort_keys=True)


def log_score(score: float | None) -> float:
    return math.log(max(score or 0.0, _SMALLEST))

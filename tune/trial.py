"""A trial and its outcome: what a search says of one config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ups.core.types import RunResult, Status

DIVERGED = (
    Status.EXPLODED,
    Status.NOT_FINITE,
    Status.OUT_OF_MEMORY,
    Status.TIMED_OUT,
    Status.INFEASIBLE,
)
"""verdicts on the config itself: the sampler learns each of them as a violated constraint"""
SHARED = (Status.PRUNED, Status.EXPLODED, Status.NOT_FINITE, Status.STALLED)
"""verdicts on a stage, which every trial that needs the same one would come to"""


def milestone_key(stage: str, share: float) -> str:
    """`operator:0.25`, as in RunResult.milestones."""
    return f"{stage}:{share:g}"


def run_folder(study: Path, number: int) -> Path:
    """Of a trial in its STUDY folder; here, as a worker that needs it has no use for Optuna."""
    return study / "runs" / f"{number:04d}"


def metrics_of(result: RunResult) -> dict[str, float]:
    """What a run measured, under the names that objectives and constraints use."""
    measured = {
        "rollout_nrmse": result.score,
        "inference_ms": result.inference_ms,
        "parameters": result.parameters,
        "peak_memory_gib": result.peak_memory_gib,
    }
    return {name: value for name, value in measured.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Trial:
    """One complete config to be trained."""

    number: int
    params: Mapping[str, Any]
    """values of the active names of the space; a given config also has the paths in which it differs"""
    protected: bool = False
    """the base and `start_from` are never pruned: they are what others are measured with"""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Status
    score: float | None = None
    """validation rollout_nrmse; of a pruned trial the one at its last milestone"""
    reason: str = ""
    milestones: Mapping[str, float] = field(default_factory=dict)
    """score at each validation, keyed `stage:share`"""
    seconds: float = 0.0
    parameters: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """what was measured of rollout_nrmse, inference_ms, parameters and peak_memory_gib; finite numbers only"""
    reused_stages: tuple[str, ...] = ()
    """stages that were found finished in the store"""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """seconds of each stage that this trial trained, in their order; the last is where it ended"""
    reused_seconds: Mapping[str, float] = field(default_factory=dict)
    """seconds that stages which were found had taken whoever trained them: what this trial was spared"""

    @classmethod
    def of(cls, result: RunResult) -> Outcome:
        finite = {key: score for key, score in result.milestones.items() if math.isfinite(score)}
        return cls(
            state=Status(result.status),
            score=result.score if result.score is not None and math.isfinite(result.score) else None,
            reason=result.reason,
            milestones=finite,
            seconds=result.seconds,
            parameters=result.parameters,
            metrics=metrics_of(result),
            reused_stages=result.reused_stages,
            stage_seconds=_own_seconds(result),
            reused_seconds={
                name: result.stages[name]["seconds"] for name in result.reused_stages if name in result.stages
            },
        )

    def to_json(self) -> str:
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        data = json.loads(text)
        return cls(**{**data, "state": Status(data["state"]), "reused_stages": tuple(data["reused_stages"])})


def _own_seconds(result: RunResult) -> dict[str, float]:
    seconds = {name: each["seconds"] for name, each in result.stages.items() if name not in result.reused_stages}
    if result.status is not Status.COMPLETE and result.stages:
        # a verdict that was found in the store cost nothing, and is where the trial ended all the same
        seconds.setdefault([*result.stages][-1], 0.0)
    return seconds

"""Records that travel between the parts, and the protocol that every predictor follows."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ups.core.physics import Boundary


class Status(enum.StrEnum):
    """How a run or a trial ended. Only FAILED is a surprise; it carries a traceback."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    EXPLODED = "EXPLODED"
    NOT_FINITE = "NOT_FINITE"
    STALLED = "STALLED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    INFEASIBLE = "INFEASIBLE"
    TIMED_OUT = "TIMED_OUT"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class FieldSpec:
    """What a model must know of the fields it predicts: all of it comes from the task's files."""

    equation: str
    cells: tuple[int, ...]
    """number of cells along each axis, after striding"""
    channels: int
    length: float
    """physical length of the domain along its first axis; cells are squares"""
    dt: float
    """physical time between two frames, after striding"""
    parameter_names: tuple[str, ...]
    boundary: Boundary = "periodic"

    @property
    def axes(self) -> int:
        """spatial dimensions"""
        return len(self.cells)

    @property
    def dx(self) -> float:
        """physical distance of neighbouring cells"""
        return self.length / self.cells[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FieldSpec:
        return cls(**{**data, "cells": tuple(data["cells"]), "parameter_names": tuple(data["parameter_names"])})


@dataclass(frozen=True)
class Progress:
    """One report of a running stage; `score` is the validation rollout_nrmse, set where it was measured."""

    stage: str
    step: int
    total_steps: int
    share: float
    """share of the stage that is done, in (0, 1]; validations fall on exact multiples of 1/validations"""
    epoch: int
    train_loss: float
    grad_norm: float
    seconds: float
    score: float | None = None
    detail: dict[str, float] = field(default_factory=dict)
    lr: float | None = None
    """learning rate of the latest update; None where nothing is trained, and in files from before it was recorded"""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class RunResult:
    """The outcome of one training run."""

    status: Status
    reason: str
    score: float | None
    """best validation rollout_nrmse of the deployed predictor, physical units"""
    milestones: dict[str, float]
    """score at each validation, keyed `stage:share`, such as `operator:0.25`"""
    seconds: float
    """training and validation time, summed over restarts"""
    parameters: int
    folder: Path
    reused_stages: tuple[str, ...] = ()
    """found in the artifact store; their time is not part of `seconds`"""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """by stage: status, score_before, score_after, kept, seconds, parameters, reused, peak_memory_gib, note"""
    stage_keys: dict[str, str] = field(default_factory=dict)
    """what every stage of the config is called in the artifact store"""
    peak_memory_gib: float | None = None
    """the most that a stage had in use when it was trained: of the device on CUDA, else of the whole process"""
    inference_ms: float | None = None
    """milliseconds of one step of one trajectory as deployed, see `ups.evaluation.latency`; None unless COMPLETE"""


class Predictor(Protocol):
    """Everything that predicts: the surrogate, the neural baselines, persistence, the coarse solver."""

    spec: FieldSpec

    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """Frames 1..steps after `initial_BXC` as (B, steps, X, C), physical units in and out.

        `mode` is `latent`, `reencode`, or None for the one configured; predictors without a latent ignore it.
        """
        ...

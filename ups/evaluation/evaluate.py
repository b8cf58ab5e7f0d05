"""Scoring a predictor on trajectories it has not seen: the one score, and the full report around it.

Shapes: S trajectories of a split, B of one batch, T frames, X cells, C channels, P parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ups.baselines.coarse_solver import CoarseSolver, Solve
from ups.baselines.persistence import InitialMean, Persistence
from ups.core.types import FieldSpec, Predictor
from ups.data.generators.advection import solve_advection
from ups.data.generators.burgers import solve_burgers
from ups.data.task import Task, Trajectories
from ups.evaluation.metrics import Metrics, Scores, skill

PDEBENCH_GIVEN = 10
"""given frames of PDEBench's protocol; a predictor of one frame starts from the last of them"""
COARSENING = 4
"""cells of the task per cell of the coarse solver"""

Batch = tuple[Tensor, Tensor]
"""(fields (B, T, X, C), parameters (B, P)) on the CPU"""

_BATCH_VALUES = 2**22
_CURVES = (
    "latent_rollout",
    "reencode_rollout",
    "coarse_solver_rollout",
    "mean_rollout",
    "persistence_rollout",
)
_SOLVERS: dict[str, Solve] = {"burgers": solve_burgers, "advection": solve_advection}


@dataclass(frozen=True)
class Report:
    """Metrics of one predictor under one protocol; `to_json` is the contract of `evaluate --json`."""

    metrics: dict[str, float]
    """physical units; inf where a rollout left the finite range"""
    protocol: dict[str, Any]
    """everything that must be equal for two numbers to be comparable"""
    curves: dict[str, list[float]] = field(default_factory=dict)
    """one number per predicted frame, and `time` in physical units"""
    cost: dict[str, float] = field(default_factory=dict)
    """wall seconds per trajectory of each rollout; not part of what must repeat"""
    trajectory_nrmse: tuple[float, ...] = ()
    """rollout nRMSE of each trajectory, in the order of the split"""
    by_file: dict[str, float] = field(default_factory=dict)
    """rollout_nrmse of each file of a task that joins several"""
    notes: tuple[str, ...] = ()
    zero_shot: Report | None = None
    """the same trajectories on the file's own cells"""

    def to_json(self) -> dict[str, Any]:
        """Plain data without NaN or inf: what is not finite becomes null and is explained in `notes`."""
        return {
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "protocol": self.protocol,
            "curves": {name: [_finite(value) for value in values] for name, values in self.curves.items()},
            "cost": {name: _finite(value) for name, value in self.cost.items()},
            "trajectory_nrmse": [_finite(value) for value in self.trajectory_nrmse],
            "by_file": {name: _finite(value) for name, value in self.by_file.items()},
            "notes": list(self.notes),
            "zero_shot": self.zero_shot.to_json() if self.zero_shot else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_json`; a null comes back as inf."""
        return cls(
            metrics={name: _infinite(value) for name, value in data["metrics"].items()},
            protocol=data["protocol"],
            curves={name: [_infinite(v) for v in values] for name, values in data.get("curves", {}).items()},
            cost={name: _infinite(value) for name, value in data.get("cost", {}).items()},
            trajectory_nrmse=tuple(_infinite(value) for value in data.get("trajectory_nrmse", ())),
            by_file={name: _infinite(value) for name, value in data.get("by_file", {}).items()},
            notes=tuple(data.get("notes", ())),
            zero_shot=cls.from_json(data["zero_shot"]) if data.get("zero_shot") else None,
        )


def score(predictor: Predictor, trajectories: Trajectories, mode: str | None = None) -> float:
    """The one score, `rollout_nrmse`: every frame after the first predicted from the first, physical units.

    inf where a prediction is not finite. Validation, pruning, search and promotion all select on this number.
    """
    row = _Row("rollout", predictor, mode)
    for fields_BTXC, parameters_BP in batches(trajectories):
        row.add(fields_BTXC, parameters_BP)
    return row.metrics.scores().values["nrmse"]


def evaluate_run(predictor: Predictor, task: Task, split: str = "test") -> Report:
    """All metrics of `predictor` on one split of its own task, beside the rows that anyone can check.

    Args:
        split: `train`, `validation` or `test`.
    """
    trajectories: Trajectories = getattr(task, split)
    protocol = {
        "files": list(task.config.files),
        "split": split,
        "split_seed": task.config.split_seed,
        "data": task.fingerprint,
    }
    report = evaluate(predictor, batches(trajectories), protocol)
    if len(task.config.files) < 2:
        return report
    nrmse_S = np.array(report.trajectory_nrmse)
    by_file = {
        name: float(nrmse_S[trajectories.file_S == index].mean()) for index, name in enumerate(task.config.files)
    }
    return replace(report, by_file=by_file)


def evaluate(predictor: Predictor, source: Iterable[Batch], protocol: dict[str, Any]) -> Report:
    """All metrics over all batches of `source`, each read once.

    `protocol` says where the trajectories come from; the rest of it is added here.
    """
    spec = predictor.spec
    rows: list[_Row] = []
    parameters: set[tuple[float, ...]] = set()
    frames = 0
    for fields_BTXC, parameters_BP in source:
        assert fields_BTXC.shape[2:] == (*spec.cells, spec.channels), (fields_BTXC.shape, spec)
        if not rows:
            frames = fields_BTXC.shape[1]
            rows = list(_rows(predictor, frames))
        for row in rows:
            row.add(fields_BTXC, parameters_BP)
        # float32 0.01 would print as 0.009999999776482582
        parameters |= {tuple(float(f"{number:.6g}") for number in each) for each in parameters_BP.tolist()}
    assert rows, "no trajectories"

    scores = {row.name: row.metrics.scores() for row in rows}
    metrics = {f"{name}_nrmse": each.values["nrmse"] for name, each in scores.items()}
    metrics |= {f"rollout_{name}": value for name, value in scores["rollout"].values.items()}
    metrics["one_step_nrmse_median"] = scores["one_step"].values["nrmse_median"]
    metrics["skill"] = skill(metrics["rollout_nrmse"], metrics["mean_rollout_nrmse"])

    curves = {"time": [spec.dt * (step + 1) for step in range(frames - 1)], **scores["rollout"].curves}
    curves |= {f"{name}_nrmse": scores[name].curves["nrmse"] for name in _CURVES if name in scores}
    weights = getattr(predictor, "num_parameters", None)
    return Report(
        metrics=metrics,
        protocol={
            "equation": spec.equation,
            **protocol,
            "trajectories": len(scores["rollout"].nrmse_S),
            "cells": spec.cells[0],
            "frames": frames,
            "dt": spec.dt,
            "given_frames": 1,
            "predicted_frames": frames - 1,
            "parameters": [dict(zip(spec.parameter_names, each, strict=True)) for each in sorted(parameters)],
            "coarse_solver_cells": _coarse_cells(spec) if "coarse_solver_rollout" in scores else None,
            "pdebench_given_frames": PDEBENCH_GIVEN if "pdebench_rollout" in scores else None,
            "pdebench_predicted_frames": frames - PDEBENCH_GIVEN if "pdebench_rollout" in scores else None,
        },
        curves=curves,
        cost={f"{row.name}_seconds": row.seconds_per_trajectory for row in rows if not row.one_step}
        | ({"parameters": float(weights)} if weights else {}),
        trajectory_nrmse=tuple(scores["rollout"].nrmse_S.tolist()),
        notes=tuple(_lost(scores)),
    )


def batches(trajectories: Trajectories) -> Iterator[Batch]:
    """The trajectories a bounded number of values at a time."""
    fields_STXC, parameters_SP = trajectories.fields_STXC, trajectories.parameters_SP
    size = batch_size(fields_STXC.shape[1:])
    for at in range(0, len(fields_STXC), size):
        # a copy: the fields may be a read-only memory map
        fields_BTXC = np.array(fields_STXC[at : at + size], dtype=np.float32)
        yield torch.from_numpy(fields_BTXC), torch.tensor(parameters_SP[at : at + size], dtype=torch.float32)


def batch_size(shape: tuple[int, ...]) -> int:
    """Trajectories of this shape (T, X, C) that are predicted at once."""
    return max(1, min(64, _BATCH_VALUES // math.prod(shape)))


@dataclass
class _Row:
    """One predictor under one protocol, and what was measured of it so far."""

    name: str
    predictor: Predictor
    mode: str | None = None
    start: int = 0
    """index of the given frame"""
    one_step: bool = False
    metrics: Metrics = field(init=False)
    seconds: float = 0.0
    trajectories: int = 0

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.predictor.spec.dt)

    @property
    def seconds_per_trajectory(self) -> float:
        return self.seconds / self.trajectories

    def add(self, fields_BTXC: Tensor, parameters_BP: Tensor) -> None:
        device = _device(self.predictor)
        fields_BTXC, parameters_BP = fields_BTXC[:, self.start :].to(device), parameters_BP.to(device)
        predict = self._one_step if self.one_step else self._rollout
        if not self.trajectories:  # compiling kernels is not the cost of a trajectory
            self._rollout(fields_BTXC[:1, :2], parameters_BP[:1])
        begin = time.perf_counter()
        prediction_BTXC = predict(fields_BTXC, parameters_BP).float().cpu()
        self.seconds += time.perf_counter() - begin
        self.trajectories += len(fields_BTXC)
        self.metrics.add(prediction_BTXC, fields_BTXC[:, 1:].cpu())

    @torch.no_grad()
    def _rollout(self, fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        return self.predictor.rollout(fields_BTXC[:, 0], parameters_BP, fields_BTXC.shape[1] - 1, self.mode)

    @torch.no_grad()
    def _one_step(self, fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        """Every frame but the first, each predicted from the true frame before it."""
        steps = range(fields_BTXC.shape[1] - 1)
        return torch.cat([self.predictor.rollout(fields_BTXC[:, t], parameters_BP, 1, self.mode) for t in steps], dim=1)


def _rows(predictor: Predictor, frames: int) -> Iterator[_Row]:
    spec = predictor.spec
    yield _Row("rollout", predictor)
    yield _Row("one_step", predictor, one_step=True)
    if getattr(predictor, "has_latent", False):
        yield _Row("latent_rollout", predictor, mode="latent")
        yield _Row("reencode_rollout", predictor, mode="reencode")
    if frames > PDEBENCH_GIVEN:
        yield _Row("pdebench_rollout", predictor, start=PDEBENCH_GIVEN - 1)
    yield _Row("persistence_rollout", Persistence(spec))
    yield _Row("persistence_one_step", Persistence(spec), one_step=True)
    yield _Row("mean_rollout", InitialMean(spec))
    if spec.equation in _SOLVERS and spec.channels == 1:
        yield _Row("coarse_solver_rollout", CoarseSolver(spec, _coarse_cells(spec), _SOLVERS[spec.equation]))


def _coarse_cells(spec: FieldSpec) -> int:
    cells = spec.cells[0]
    return cells // COARSENING if cells % COARSENING == 0 else cells


def _device(predictor: Predictor) -> torch.device:
    if isinstance(predictor, nn.Module):
        for tensor in (*predictor.parameters(), *predictor.buffers()):
            return tensor.device
    return torch.device("cpu")


def _lost(scores: dict[str, Scores]) -> Iterator[str]:
    for name, each in scores.items():
        lost = int((~np.isfinite(each.nrmse_S)).sum())
        if lost:
            yield (
                f"{name}: {lost} of {len(each.nrmse_S)} trajectories left the finite range; "
                "their error counts as infinite, means over them are null"
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value

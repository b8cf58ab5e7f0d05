"""Scoring a predictor on trajectories it has not seen: the one score, and the full report around it.

Shapes: S trajectories of a split, B of one batch, T frames, X the cells of all axes, C channels, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ups.core.physics import EQUATIONS
from ups.core.types import Predictor
from ups.data.normalization import Normalizer
from ups.data.task import Task, Trajectories
from ups.evaluation.metrics import Scores, skill
from ups.evaluation.rows import PDEBENCH_GIVEN, Row, coarse_cells, no_skill, rows_of
from ups.evaluation.search_report import SearchReport

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
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """what each stage of the run brought on validation, as its `result.json` tells it; see `ups.evaluation.stages`"""
    zero_shot: Report | None = None
    """the same trajectories on the file's own cells"""
    ttc: SearchReport | None = None
    """what the predictor's search at test time brings; see `ups.evaluation.searched`"""

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
            "stages": {
                stage: {name: _finite(value) if isinstance(value, float) else value for name, value in told.items()}
                for stage, told in self.stages.items()
            },
            "zero_shot": self.zero_shot.to_json() if self.zero_shot else None,
            "ttc": self.ttc.to_json() if self.ttc else None,
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
            stages=dict(data.get("stages", {})),
            zero_shot=cls.from_json(data["zero_shot"]) if data.get("zero_shot") else None,
            ttc=SearchReport.from_json(data["ttc"]) if data.get("ttc") else None,
        )


def score(predictor: Predictor, trajectories: Trajectories, mode: str | None = None) -> float:
    """The one score, `rollout_nrmse`: every frame after the first predicted from the first, physical units.

    inf where a prediction is not finite. Validation, pruning, search and promotion all select on this number.
    """
    row = Row("rollout", predictor, mode)
    for fields_BTXC, parameters_BP in batches(trajectories):
        row.add(fields_BTXC, parameters_BP)
    return row.metrics.scores().values["nrmse"]


def no_skill_score(task: Task) -> float:
    """The validation `score` of knowing nothing: the constant initial mean, of steady tasks the mean solution."""
    return score(no_skill(task.spec, task.normalizer), task.validation)


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
    report = evaluate(predictor, batches(trajectories), protocol, task.normalizer)
    if len(task.config.files) < 2:
        return report
    # every file has as many trajectories as any other, so the mean over them is the mean over files as well
    counts = np.bincount(trajectories.file_S, minlength=len(task.config.files))
    assert (counts == counts[0]).all(), counts
    nrmse_S = np.array(report.trajectory_nrmse)
    by_file = {
        name: float(nrmse_S[trajectories.file_S == index].mean()) for index, name in enumerate(task.config.files)
    }
    return replace(report, by_file=by_file)


def evaluate(
    predictor: Predictor, source: Iterable[Batch], protocol: dict[str, Any], normalizer: Normalizer | None = None
) -> Report:
    """All metrics over all batches of `source`, each read once.

    Args:
        protocol: where the trajectories come from; the rest of it is added here.
        normalizer: of the predictor's training split; steady tasks need it for their no-skill line.
    """
    spec, equation = predictor.spec, EQUATIONS[predictor.spec.equation]
    rows: list[Row] = []
    parameters: set[tuple[float, ...]] = set()
    frames = 0
    for fields_BTXC, parameters_BP in source:
        assert fields_BTXC.shape[2:] == (*spec.cells, spec.channels), (fields_BTXC.shape, spec)
        if not rows:
            frames = fields_BTXC.shape[1]
            rows = list(rows_of(predictor, frames, normalizer))
        for row in rows:
            row.add(fields_BTXC, parameters_BP)
        # float32 0.01 would print as 0.009999999776482582
        parameters |= {tuple(float(f"{number:.6g}") for number in each) for each in parameters_BP.tolist()}
    assert rows, "no trajectories"

    scores = {row.name: row.metrics.scores() for row in rows}
    metrics = {f"{name}_nrmse": each.values["nrmse"] for name, each in scores.items()}
    metrics |= {f"rollout_{name}": value for name, value in scores["rollout"].values.items()}
    if spec.channels > 1:
        each_channel = zip(equation.channels, scores["rollout"].nrmse_C, strict=True)
        metrics |= {f"rollout_nrmse[{name}]": value for name, value in each_channel}
    if equation.steady:  # there is no time in which a correlation could be lost
        del metrics["rollout_correlation_time"]
    else:
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
            "cells": plain_cells(spec.cells),
            "frames": frames,
            "dt": spec.dt,
            "given_frames": 1,
            "predicted_frames": frames - 1,
            "parameters": [dict(zip(spec.parameter_names, each, strict=True)) for each in sorted(parameters)],
            "coarse_solver_cells": coarse_cells(spec) if "coarse_solver_rollout" in scores else None,
            "pdebench_given_frames": PDEBENCH_GIVEN if "pdebench_rollout" in scores else None,
            "pdebench_predicted_frames": frames - PDEBENCH_GIVEN if "pdebench_rollout" in scores else None,
        },
        curves=curves,
        cost={f"{row.name}_seconds": row.seconds_per_trajectory for row in rows if not row.one_step}
        | ({"parameters": float(weights)} if weights else {}),
        trajectory_nrmse=tuple(scores["rollout"].nrmse_S.tolist()),
        notes=tuple(_lost(scores)),
    )


def plain_cells(cells: tuple[int, ...]) -> int | list[int]:
    """Cells as a protocol has them: a number of one axis, a list of several."""
    return cells[0] if len(cells) == 1 else list(cells)


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

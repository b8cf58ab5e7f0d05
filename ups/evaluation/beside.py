"""Several predictors on the same trajectories: one figure of their errors over time, one table, and which finished runs
may stand in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ups.core.errors import UserError
from ups.core.types import Status
from ups.data.task import Task
from ups.evaluation.compare import comparable
from ups.evaluation.evaluate import Report, plain_cells
from ups.evaluation.metrics import BAND
from ups.evaluation.report import FILE_NAME, is_steady, load_report, reference_curves
from ups.evaluation.runs import load_result
from ups.evaluation.stages import number
from ups.inference.build import ModelConfig
from ups.pages.charts import AMBER, BLUE, GREEN, GREY, PURPLE, RED, TEAL, Area, Axis, Layer, Line, chart
from ups.pages.page import remark, table

_MODELS = (BLUE, GREEN, PURPLE, TEAL)
_REFERENCES = {"coarse solver": AMBER, "initial mean": RED, "persistence": GREY}
_TASK = ("equation", "data", "cells", "frames", "dt")
"""of a protocol: what does not depend on the part of the data that is looked at"""


@dataclass(frozen=True)
class Beside:
    """A finished run that is shown beside another one."""

    run: Path
    name: str
    """what it is called, by default its kind of model and its folder, such as `fno: runs/fno`"""
    report: Report
    """on test trajectories"""


@dataclass(frozen=True)
class Measured:
    """The errors of one predictor on the trajectories that are shown."""

    name: str
    nrmse: float
    """of the rollouts, mean over trajectories; inf where one left the finite range"""
    curves: Mapping[str, Sequence[float]]
    """`nrmse` of each predicted frame, and where they are known its quantiles over trajectories, `nrmse_low` and
    `nrmse_high`; empty of a steady task"""
    parameters: float | None = None
    """number of weights, if it has any"""

    @classmethod
    def of(cls, name: str, report: Report) -> Measured:
        """By a report, on all trajectories of its split."""
        return cls(name, report.metrics["rollout_nrmse"], report.curves, report.cost.get("parameters"))

    @property
    def has_band(self) -> bool:
        return "nrmse_low" in self.curves


@dataclass(frozen=True)
class Errors:
    """Several predictors on the same trajectories."""

    models: Sequence[Measured]
    """the one that it is about first"""
    references: Mapping[str, Sequence[float]]
    """error of each predicted frame of those who know nothing, by name; empty of a steady task"""
    time: Sequence[float]
    """of the predicted frames, physical"""
    split: str
    """which part of the data the trajectories are of"""
    whose: str
    """how many trajectories of what, such as `8 of 32 validation trajectories`"""

    @classmethod
    def of_reports(cls, name: str, report: Report, beside: Sequence[Beside]) -> Errors:
        """Of all trajectories that the report is about, and that those of `beside` are about as well."""
        models = [Measured.of(name, report), *(Measured.of(each.name, each.report) for each in beside)]
        split, count = report.protocol["split"], report.protocol["trajectories"]
        kind = "samples" if is_steady(report) else "trajectories"
        whose = f"{count} {split} {kind}"
        return cls(models, reference_curves(report.curves), report.curves["time"], split, whose)


def load_beside(runs: Sequence[Path], wanted: Mapping[str, Any], whose: str) -> list[Beside]:
    """Finished runs that may stand beside `whose`: of the same task, each with its report on test trajectories.

    Args:
        wanted: the protocol that theirs has to agree with, of `comparable` or of `task_protocol`.

    Raises:
        UserError: no finished run there, it did not end well, has no report on test, or is of another task.
    """
    return [_load(run, wanted, whose) for run in dict.fromkeys(runs)]


def task_protocol(task: Task) -> dict[str, Any]:
    """What has to agree in the reports of two runs that are measured on one task, whatever part of it."""
    spec, frames = task.spec, task.validation.fields_STXC.shape[1]
    return dict(zip(_TASK, (spec.equation, task.fingerprint, plain_cells(spec.cells), frames, spec.dt), strict=True))


def error_over_time(errors: Errors) -> str:
    """A <figure> with the mean error of each predicted frame: models as lines, those who know nothing dashed."""
    time, (first, *others) = errors.time, errors.models
    curve = first.curves["nrmse"]
    said = (
        f"Mean nRMSE over {errors.whose}: {_short(curve[0])} at t = {time[0]:.3g}, "
        f"{_short(curve[-1])} at t = {time[-1]:.3g}."
    )
    layers: list[Layer] = []
    if first.has_band:
        low, high = first.curves["nrmse_low"], first.curves["nrmse_high"]
        quantiles = f"{BAND[0]:.0%} and {BAND[1]:.0%} quantiles"
        said += f" The band lies between their {quantiles}, in the end {_short(low[-1])} to {_short(high[-1])}."
        known = [each for each in zip(time, low, high, strict=True) if _has_place(each[1]) and _has_place(each[2])]
        if known:
            x, below, above = zip(*known, strict=True)
            layers.append(Area(x, below, above, f"{quantiles} of {first.name}", BLUE))
    lines = [
        _line(time, each.name, each.curves["nrmse"], _MODELS[n % len(_MODELS)]) for n, each in enumerate(errors.models)
    ]
    dashed = [_line(time, name, values, _REFERENCES[name], dashed=True) for name, values in errors.references.items()]
    # the one that it is about once more, over the others
    layers += [line for line in (*lines, *dashed, replace(lines[0], label="")) if line.x]
    ends = {each.name: each.curves["nrmse"] for each in others} | dict(errors.references)
    if ends:
        said += f" At the end: {', '.join(f'{name} {_short(values[-1])}' for name, values in ends.items())}."
    axes = Axis("time after the given frame", log=False), Axis("nRMSE of the frame")
    return chart(f"Error over time on {errors.split}", said, *axes, layers)


def beside_table(errors: Errors) -> str:
    """Everybody's error on the same trajectories, and its ratio to that of the first; nothing if that is alone."""
    first, *others = errors.models
    if not others:
        return ""
    rows = [[first.name, number(first.nrmse), "", _weights(first)]]
    for each in others:
        known = math.isfinite(first.nrmse) and math.isfinite(each.nrmse) and each.nrmse > 0
        rows.append(
            [each.name, number(each.nrmse), f"{first.nrmse / each.nrmse:.3g}" if known else "–", _weights(each)]
        )
    told = (
        f"Rollout nRMSE over {errors.whose}. Ratio: the error of {first.name} divided by the one of the row; below 1, "
        f"{first.name} is better. Each is a single run: what another seed would do is not in it."
    )
    return table("Beside", ["beside", "nRMSE", "ratio", "parameters"], rows, short=True) + remark(told)


def _load(run: Path, wanted: Mapping[str, Any], whose: str) -> Beside:
    result = load_result(run)
    if result.status is not Status.COMPLETE:
        raise UserError(f"{run}: ended {result.status} ({result.reason}); --beside needs a run that is COMPLETE")
    report = load_report(run / FILE_NAME)
    found = {**comparable(report), "split": report.protocol.get("split")}
    if found["split"] != "test":
        path = run / FILE_NAME
        raise UserError(
            f"{path}: is not about test trajectories; `ups evaluate {run} --json {path}` writes one that is"
        )
    different = [key for key, value in wanted.items() if found.get(key) != value]
    if different:
        told = [
            "other data or another split of it" if key == "data" else f"{key} {found.get(key)} instead of {wanted[key]}"
            for key in different
        ]
        raise UserError(
            f"--beside {run}: was trained on another task than {whose} ({'; '.join(told)}); give a run on the same "
            "data, split, frames and cells"
        )
    return Beside(run, f"{_kind(run)}: {run}", report)


def _kind(run: Path) -> str:
    """Of the model: that of the baseline, or of the operator."""
    path = run / "config.yaml"
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = ModelConfig.parse({name: known[name] for name in ModelConfig.model_fields if name in known})
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise UserError(f"{path}: not the config of a run ({type(error).__name__})") from None
    return (config.baseline or config.operator).kind


def _line(time: Sequence[float], name: str, values: Sequence[float], colour: str, dashed: bool = False) -> Line:
    known = [(t, value) for t, value in zip(time, values, strict=True) if _has_place(value)]
    label = name if all(map(math.isfinite, values)) else f"{name} (not finite)"
    return Line([t for t, _ in known], [value for _, value in known], label, colour, dashed)


def _has_place(value: float) -> bool:
    """On an axis that may be logarithmic."""
    return math.isfinite(value) and value > 0


def _weights(model: Measured) -> str:
    return f"{model.parameters:,.0f}" if model.parameters else "–"


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"

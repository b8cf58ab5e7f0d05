"""A report for people and programs: report.json, and the same rows for the terminal and for pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ups.core.errors import UserError
from ups.core.physics import EQUATIONS
from ups.core.runtime import write_atomic
from ups.evaluation.evaluate import Report
from ups.evaluation.search_table import search_group
from ups.evaluation.stages import number, stages_table

FILE_NAME = "report.json"

ROWS = {
    "this run": "rollout",
    "this run without its search": "plain_rollout",
    "pure latent rollout": "latent_rollout",
    "re-encoded rollout": "reencode_rollout",
    "coarse solver": "coarse_solver_rollout",
    "initial mean": "mean_rollout",
    "persistence": "persistence_rollout",
}
REFERENCES = ("coarse solver", "initial mean", "persistence")
"""rows that no training is needed for"""
_MORE = {
    "one step": "one_step_nrmse",
    "one step, persistence": "persistence_one_step_nrmse",
    "skill": "skill",
    "pooled relative L2": "rollout_relative_l2",
    "VRMSE": "rollout_vrmse",
    "RMSE": "rollout_rmse",
    "cRMSE (mean of the field)": "rollout_crmse",
    "bRMSE (boundary cells)": "rollout_brmse",
    "fRMSE low": "rollout_frmse_low",
    "fRMSE middle": "rollout_frmse_middle",
    "fRMSE high": "rollout_frmse_high",
    "max error": "rollout_max_error",
    "correlation time": "rollout_correlation_time",
}
_CHANNEL = "rollout_nrmse["
"""what the name of a channel's own nRMSE begins with"""


def save_report(report: Report, path: Path) -> None:
    """Write `Report.to_json` atomically."""
    write_atomic(path, (json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n").encode())


def load_report(path: Path) -> Report:
    """Read what `save_report` wrote.

    Raises:
        UserError: the file is missing or not a report.
    """
    try:
        return Report.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{path}: no such report; `ups evaluate {path.parent} --json {path}` writes it") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise UserError(f"{path}: not a report of `ups train` or `ups evaluate --json`") from None


def protocol_line(report: Report) -> str:
    """What the numbers are numbers of, in one line: printed with every table."""
    p = report.protocol
    split = f"{p['split']} " if p.get("split") else ""
    if is_steady(report):
        return f"{p['equation']}, {p['trajectories']} {split}samples, {cells_words(p)}, solution from coefficient"
    return (
        f"{p['equation']}, {p['trajectories']} {split}trajectories, {cells_words(p)}, "
        f"{p['frames']} frames, dt {p['dt']:.4g}, {p['given_frames']} given, {p['predicted_frames']} predicted"
    )


def cells_words(protocol: Mapping[str, Any]) -> str:
    """`256 cells`, `64 x 64 cells`."""
    cells = protocol["cells"]
    return f"{' x '.join(map(str, cells)) if isinstance(cells, list) else cells} cells"


def rollout_rows(report: Report) -> list[tuple[str, str, str]]:
    """(name, nRMSE, seconds a trajectory): the run, then whoever needs no training."""
    return [
        (named(label, report), number(report.metrics[f"{name}_nrmse"]), number(report.cost.get(f"{name}_seconds")))
        for label, name in ROWS.items()
        if f"{name}_nrmse" in report.metrics
    ]


def further_rows(report: Report) -> list[tuple[str, str]]:
    """(name, value): each channel, the other metrics, PDEBench's protocol, each file of a joint task."""
    channels = {
        f"nRMSE of {name.removeprefix(_CHANNEL).removesuffix(']')}": name
        for name in report.metrics
        if name.startswith(_CHANNEL)
    }
    typical = f"median of {'samples' if is_steady(report) else 'trajectories'}"
    rows = []
    for label, name in {**channels, typical: "rollout_nrmse_median", **_MORE}.items():
        if name in report.metrics:
            shown = f"skill against the {named('initial mean', report)}" if name == "skill" else label
            rows.append((shown, number(report.metrics[name])))
    if "pdebench_rollout_nrmse" in report.metrics:
        given, predicted = (report.protocol[f"pdebench_{kind}_frames"] for kind in ("given", "predicted"))
        told = f"PDEBench's protocol ({given} given, {predicted} predicted)"
        rows.append((told, number(report.metrics["pdebench_rollout_nrmse"])))
    return [*rows, *((name, number(value)) for name, value in report.by_file.items())]


def report_table(report: Report, title: str) -> Group:
    """One report as it is printed: rows that anyone can check, further metrics, notes."""
    rollouts = Table()
    steady = is_steady(report)
    rollouts.add_column("nRMSE" if steady else "rollout nRMSE")
    rollouts.add_column("mean", justify="right")
    rollouts.add_column("s/sample" if steady else "s/trajectory", justify="right")
    references = {named(label, report) for label in REFERENCES}
    for place, row in enumerate(rollout_rows(report)):
        rollouts.add_row(*row, style="bold" if place == 0 else ("dim" if row[0] in references else ""))
    further = Table(show_header=False)
    further.add_column()
    further.add_column(justify="right")
    for name, value in further_rows(report):
        further.add_row(Text(name), value)
    head = [Text(title, style="bold"), Text(protocol_line(report))]
    parts: list[Table | Text | Group] = [*head, rollouts, further]
    if report.ttc:
        parts.append(search_group(report))
    if report.stages:
        parts.append(stages_table(report.stages))
    parts += [Text(f"note: {note}") for note in report.notes]
    if report.zero_shot:
        parts.append(report_table(report.zero_shot, f"{title}, zero-shot at {cells_words(report.zero_shot.protocol)}"))
    return Group(*parts)


def reference_rows(report: Report) -> dict[str, float]:
    """nRMSE of the rows that no training is needed for, by the names that readers see."""
    names = {named(label, report): f"{ROWS[label]}_nrmse" for label in REFERENCES}
    return {label: report.metrics[name] for label, name in names.items() if name in report.metrics}


def reference_curves(curves: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Of the curves of a report those that no training is needed for, by the names that readers see."""
    names = {label: f"{ROWS[label]}_nrmse" for label in REFERENCES}
    return {label: curves[name] for label, name in names.items() if name in curves}


def is_steady(report: Report) -> bool:
    """Whether there is no time in it: a coefficient goes in, a solution comes out."""
    return EQUATIONS[report.protocol["equation"]].steady


def named(label: str, report: Report) -> str:
    """The no-skill line by what it is: a steady task has no initial field."""
    return "mean solution" if label == "initial mean" and is_steady(report) else label

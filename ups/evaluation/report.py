"""Reports for people and programs: tables, report.json, and several runs side by side."""

from __future__ import annotations

import base64
import html
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
from ups.evaluation import plots
from ups.evaluation.evaluate import Report
from ups.evaluation.search_table import search_group, search_html
from ups.evaluation.stages import number, stages_table

FILE_NAME = "report.json"

_ROWS = {
    "this run": "rollout",
    "this run without its search": "plain_rollout",
    "pure latent rollout": "latent_rollout",
    "re-encoded rollout": "reencode_rollout",
    "coarse solver": "coarse_solver_rollout",
    "initial mean": "mean_rollout",
    "persistence": "persistence_rollout",
}
_REFERENCES = ("coarse solver", "initial mean", "persistence")
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
_COMPARED = {
    "rollout": "rollout_nrmse",
    "without search": "plain_rollout_nrmse",
    "median": "rollout_nrmse_median",
    "one step": "one_step_nrmse",
    "latent": "latent_rollout_nrmse",
    "re-encoded": "reencode_rollout_nrmse",
    "from 10th": "pdebench_rollout_nrmse",
    "skill": "skill",
}
_CHANNEL = "rollout_nrmse["
"""what the name of a channel's own nRMSE begins with"""
_SAME = ("equation", "data", "files", "split", "trajectories", "cells", "frames", "dt", "parameters")


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
    if _is_steady(report):
        return f"{p['equation']}, {p['trajectories']} {split}samples, {cells_words(p)}, solution from coefficient"
    return (
        f"{p['equation']}, {p['trajectories']} {split}trajectories, {cells_words(p)}, "
        f"{p['frames']} frames, dt {p['dt']:.4g}, {p['given_frames']} given, {p['predicted_frames']} predicted"
    )


def cells_words(protocol: Mapping[str, Any]) -> str:
    """`256 cells`, `64 x 64 cells`."""
    cells = protocol["cells"]
    return f"{' x '.join(map(str, cells)) if isinstance(cells, list) else cells} cells"


def report_table(report: Report, title: str) -> Group:
    """One report as it is printed: rows that anyone can check, further metrics, notes."""
    rollouts = Table()
    steady = _is_steady(report)
    rollouts.add_column("nRMSE" if steady else "rollout nRMSE")
    rollouts.add_column("mean", justify="right")
    rollouts.add_column("s/sample" if steady else "s/trajectory", justify="right")
    for label, name in _ROWS.items():
        if f"{name}_nrmse" in report.metrics:
            style = "bold" if name == "rollout" else ("dim" if label in _REFERENCES else "")
            cells = number(report.metrics[f"{name}_nrmse"]), number(report.cost.get(f"{name}_seconds"))
            rollouts.add_row(_named(label, report), *cells, style=style)
    further = Table(show_header=False)
    further.add_column()
    further.add_column(justify="right")
    channels = {
        f"nRMSE of {name.removeprefix(_CHANNEL).removesuffix(']')}": name
        for name in report.metrics
        if name.startswith(_CHANNEL)
    }
    for label, name in {
        **channels,
        f"median of {'samples' if steady else 'trajectories'}": "rollout_nrmse_median",
        **_MORE,
    }.items():
        if name in report.metrics:
            shown = f"skill against the {_named('initial mean', report)}" if name == "skill" else label
            further.add_row(shown, number(report.metrics[name]))
    if "pdebench_rollout_nrmse" in report.metrics:
        given, predicted = (report.protocol[f"pdebench_{kind}_frames"] for kind in ("given", "predicted"))
        further.add_row(
            f"PDEBench's protocol ({given} given, {predicted} predicted)",
            number(report.metrics["pdebench_rollout_nrmse"]),
        )
    for name, value in report.by_file.items():
        further.add_row(Text(name), number(value))
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


def compare_rows(reports: Mapping[str, Report]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of several runs side by side, best rollout first, the untrained rows below."""
    first = next(iter(reports.values()))
    shown = {label: name for label, name in _COMPARED.items() if any(name in each.metrics for each in reports.values())}
    rows = []
    for run, report in sorted(reports.items(), key=lambda item: item[1].metrics["rollout_nrmse"]):
        weights = report.cost.get("parameters")
        rows.append(
            [
                run,
                *(number(report.metrics.get(name)) for name in shown.values()),
                f"{weights:,.0f}" if weights else "–",
                number(report.cost.get("rollout_seconds")),
            ]
        )
    for label in _REFERENCES:
        name = _ROWS[label]
        if f"{name}_nrmse" in first.metrics:
            one_step = first.metrics.get(f"{name.removesuffix('_rollout')}_one_step_nrmse")
            known = {"rollout_nrmse": first.metrics[f"{name}_nrmse"], "one_step_nrmse": one_step}
            cells = [number(known.get(column)) for column in shown.values()]
            rows.append([_named(label, first), *cells, "–", number(first.cost.get(f"{name}_seconds"))])
    return ["run", *shown, "parameters", "s/trajectory"], rows


def differing_protocol(reports: Mapping[str, Report]) -> list[str]:
    """Parts of the protocol that are not equal in all reports: if there are any, the numbers do not compare."""
    protocols = [report.protocol for report in reports.values()]
    # equal content makes file names irrelevant
    same_data = len({protocol.get("data") for protocol in protocols}) == 1 and protocols[0].get("data")
    keys = [key for key in _SAME if not (key == "files" and same_data)]
    return [key for key in keys if any(protocol.get(key) != protocols[0].get(key) for protocol in protocols)]


def compare_table(reports: Mapping[str, Report]) -> Group:
    """Several runs side by side for the terminal."""
    header, rows = compare_rows(reports)
    first = next(iter(reports.values()))
    references = {_named(label, first) for label in _REFERENCES}
    table = Table()
    for label in header:
        table.add_column(label, justify="left" if label == "run" else "right")
    for row in rows:
        table.add_row(*map(Text, row), style="dim" if row[0] in references else "")
    return Group(
        Text(f"nRMSE: {protocol_line(first)}"), table, *(Text(line, style="yellow") for line in _warnings(reports))
    )


def compare_png(reports: Mapping[str, Report]) -> bytes:
    """Error over time of every run, with the rows that know nothing, as a PNG; of steady tasks, which have no time,
    the error alone."""
    first = next(iter(reports.values()))
    title = protocol_line(first)
    if _is_steady(first):
        names = {_named(label, first): f"{_ROWS[label]}_nrmse" for label in _REFERENCES}
        errors = {run: report.metrics["rollout_nrmse"] for run, report in reports.items()}
        known = {label: first.metrics[name] for label, name in names.items() if name in first.metrics}
        return plots.png(plots.error_bars(errors, known, title=title))
    references = reference_curves(first)
    longest = max((report.curves["time"] for report in reports.values()), key=len)
    lines = {run: report.curves["nrmse"] for run, report in reports.items()}
    return plots.png(plots.error_over_time(lines, references, longest, title=title))


def reference_curves(report: Report) -> dict[str, list[float]]:
    """Error over time of the rows that no training is needed for, by the names that readers see."""
    names = {_named(label, report): f"{_ROWS[label]}_nrmse" for label in _REFERENCES}
    return {label: report.curves[name] for label, name in names.items() if name in report.curves}


def compare_html(reports: Mapping[str, Report]) -> str:
    """A page of its own: the table and the curves, nothing loaded from elsewhere."""
    header, rows = compare_rows(reports)
    first = next(iter(reports.values()))
    head = "".join(f"<th>{html.escape(label)}</th>" for label in header)
    references = {_named(label, first) for label in _REFERENCES}
    body = "\n".join(
        f"<tr{' class=reference' if row[0] in references else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    warnings = "".join(f"<p class=warning>{html.escape(line)}</p>" for line in _warnings(reports))
    image = base64.b64encode(compare_png(reports)).decode()
    searches = "\n".join(search_html(report, run) for run, report in reports.items() if report.ttc)
    return _PAGE.format(
        protocol=html.escape(protocol_line(first)),
        head=head,
        body=body,
        warnings=warnings,
        image=image,
        searches=searches,
    )


def _is_steady(report: Report) -> bool:
    return EQUATIONS[report.protocol["equation"]].steady


def _named(label: str, report: Report) -> str:
    """The no-skill line by what it is: a steady task has no initial field."""
    return "mean solution" if label == "initial mean" and _is_steady(report) else label


def _warnings(reports: Mapping[str, Report]) -> list[str]:
    lines = [f"{run}: {note}" for run, report in reports.items() for note in report.notes]
    differing = differing_protocol(reports)
    if differing:
        lines.insert(0, f"not comparable: the runs differ in {', '.join(differing)}")
    return lines


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Runs side by side</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #e4e7eb }}
th:first-child, td:first-child {{ overflow-wrap: anywhere; min-width: 10rem }}
th:first-child, td:first-child, .text {{ text-align: left }}
th {{ font-weight: 600 }} .reference {{ color: #616e7c }} .warning {{ color: #8d4b00 }}
.wide {{ overflow-x: auto; margin-bottom: 1rem }} img {{ max-width: 100%; height: auto }}
</style></head><body>
<h1>Runs side by side</h1>
<p>nRMSE, physical units: {protocol}</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>
{warnings}
<p><img alt="nRMSE of each predicted frame" src="data:image/png;base64,{image}"></p>
{searches}
</body></html>
"""

"""Several runs side by side: for the terminal, as a picture, as a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ups.evaluation import plots
from ups.evaluation.evaluate import Report
from ups.evaluation.paired import CONFIDENCE, interval_of_mean
from ups.evaluation.report import (
    REFERENCES,
    ROWS,
    is_steady,
    named,
    protocol_line,
    reference_curves,
    reference_rows,
)
from ups.evaluation.search_table import search_html
from ups.evaluation.stages import number
from ups.pages.images import image
from ups.pages.page import gallery, page, remark, section, table

Reports = Mapping[str, Report]
"""by run"""

_COLUMNS = {
    "rollout": "rollout_nrmse",
    "without search": "plain_rollout_nrmse",
    "median": "rollout_nrmse_median",
    "one step": "one_step_nrmse",
    "latent": "latent_rollout_nrmse",
    "re-encoded": "reencode_rollout_nrmse",
    "from 10th": "pdebench_rollout_nrmse",
    "skill": "skill",
}
_SAME = ("equation", "data", "files", "split", "trajectories", "cells", "frames", "dt", "parameters")


def compare_rows(reports: Reports) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of several runs side by side, best rollout first, the untrained rows below.

    Runs are named without the folders that they share.
    """
    names = _short_names(reports)
    first = next(iter(reports.values()))
    shown = {label: name for label, name in _COLUMNS.items() if any(name in each.metrics for each in reports.values())}
    rows = []
    for run in _best_first(reports):
        report = reports[run]
        weights = report.cost.get("parameters")
        rows.append(
            [
                names[run],
                *(number(report.metrics.get(name)) for name in shown.values()),
                f"{weights:,.0f}" if weights else "–",
                number(report.cost.get("rollout_seconds")),
            ]
        )
    for label in REFERENCES:
        name = ROWS[label]
        if f"{name}_nrmse" in first.metrics:
            one_step = first.metrics.get(f"{name.removesuffix('_rollout')}_one_step_nrmse")
            known = {"rollout_nrmse": first.metrics[f"{name}_nrmse"], "one_step_nrmse": one_step}
            cells = [number(known.get(column)) for column in shown.values()]
            rows.append([named(label, first), *cells, "–", number(first.cost.get(f"{name}_seconds"))])
    return ["run", *shown, "parameters", "s/trajectory"], rows


def differing_protocol(reports: Reports) -> list[str]:
    """Parts of the protocol that are not equal in all reports: if there are any, the numbers do not compare."""
    protocols = [comparable(report) for report in reports.values()]
    keys = [key for protocol in protocols for key in protocol]
    return [key for key in dict.fromkeys(keys) if any(each.get(key) != protocols[0].get(key) for each in protocols)]


def comparable(report: Report) -> dict[str, Any]:
    """The parts of a protocol that must be equal for numbers to compare; equal content makes file names irrelevant."""
    data = report.protocol.get("data")
    return {key: report.protocol.get(key) for key in _SAME if not (key == "files" and data)}


def compare_table(reports: Reports) -> Group:
    """Several runs side by side for the terminal."""
    header, rows = compare_rows(reports)
    first = next(iter(reports.values()))
    shown = Table()
    for label in header:
        # two runs must not be cut to the same letters
        shown.add_column(label, justify="left" if label == "run" else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row), style="dim" if row[0] in reference_rows(first) else "")
    return Group(
        Text(f"nRMSE: {protocol_line(first)}"), shown, *(Text(line, style="yellow") for line in _warnings(reports))
    )


def compare_figure(reports: Reports, title: str = "") -> Figure:
    """Error over time of every run, with the rows that know nothing; of steady tasks, without time, the errors."""
    first = next(iter(reports.values()))
    if is_steady(first):
        return _errors(reports, title)
    names = _short_names(reports)
    longest = max((report.curves["time"] for report in reports.values()), key=len)
    lines = {names[run]: reports[run].curves["nrmse"] for run in _best_first(reports)}
    return plots.error_over_time(lines, reference_curves(first.curves), longest, title=title)


def compare_picture(reports: Reports, kind: str) -> bytes:
    """`compare_figure` under its protocol, as a file; `kind` is `.png` or `.svg`."""
    figure = compare_figure(reports, protocol_line(next(iter(reports.values()))))
    return plots.svg(figure) if kind == ".svg" else plots.png(figure)


def compare_html(reports: Reports) -> str:
    """A page of its own: the table, the errors with their intervals and over time, nothing loaded from elsewhere."""
    header, rows = compare_rows(reports)
    first = next(iter(reports.values()))
    (best, smallest), *others = ((row[0], row[1]) for row in rows[: len(reports)])
    told = f"{best} has the smallest error, {smallest}"
    told += "".join(f"; {run} has {error}" for run, error in others)
    bars = f"{told}. Bars are the {CONFIDENCE:.0%} interval over trajectories; they say nothing of other seeds."
    pictures = [image("Error of each run", bars, plots.png(_errors(reports)))]
    if not is_steady(first):
        pictures.append(
            image("Error over time", f"Mean nRMSE of each frame. {told}.", plots.png(compare_figure(reports)))
        )
    warnings = "".join(map(remark, _warnings(reports)))
    sections = [
        section(
            "Scores",
            remark(f"nRMSE, physical units: {protocol_line(first)}")
            + table("Runs", header, rows, short=True)
            + warnings,
        ),
        section("Pictures", gallery(pictures)),
        *(
            section(f"Search at test time: {run}", search_html(report))
            for run, report in reports.items()
            if report.ttc is not None
        ),
    ]
    return page("Runs side by side", sections)


def _errors(reports: Reports, title: str = "") -> Figure:
    """The error of each run with its interval over trajectories, and of those who know nothing."""
    names = _short_names(reports)
    known = {run: np.array(report.trajectory_nrmse) for run, report in reports.items()}
    intervals = {
        names[run]: interval_of_mean(error_S)
        for run, error_S in known.items()
        if len(error_S) > 1 and np.isfinite(error_S).all()
    }
    errors = {names[run]: reports[run].metrics["rollout_nrmse"] for run in _best_first(reports)}
    return plots.error_bars(errors, reference_rows(next(iter(reports.values()))), intervals=intervals, title=title)


def _best_first(reports: Reports) -> list[str]:
    """The order of every table and picture, so that a run has one colour."""
    return sorted(reports, key=lambda run: reports[run].metrics["rollout_nrmse"])


def _short_names(reports: Reports) -> dict[str, str]:
    """Runs without the folders that all of them share."""
    folders = {os.path.dirname(run) for run in reports}
    common = os.path.commonpath(folders) if len({os.path.isabs(folder) for folder in folders}) == 1 else ""
    return {run: os.path.relpath(run, common) if common else run for run in reports}


def _warnings(reports: Reports) -> list[str]:
    lines = [f"{run}: {note}" for run, report in reports.items() for note in report.notes]
    differing = differing_protocol(reports)
    if differing:
        lines.insert(0, f"not comparable: the runs differ in {', '.join(differing)}")
    return lines

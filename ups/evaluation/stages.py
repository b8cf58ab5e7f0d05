"""What each stage of a run brought on the validation split, as its result.json tells it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ups.evaluation.evaluate import Report

Stages = Mapping[str, Mapping[str, Any]]
"""stage -> `status`, `score_before` and `score_after` (validation rollout_nrmse without and with it), `kept`,
`seconds`, `parameters`, `reused`, `note`; what is not known is null or missing"""


def with_stages(report: Report, result: Path) -> Report:
    """The report with the stages that `result` (a run's result.json) tells; as it is if it has some, or there is none.

    A run that has not finished, or was trained before stages were recorded, has none.
    """
    if report.stages or not result.is_file():
        return report
    return replace(report, stages=json.loads(result.read_text(encoding="utf-8")).get("stages") or {})


def number(value: float | None) -> str:
    """Four significant digits; a dash for what is not there."""
    if value is None:
        return "–"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


STAGE_COLUMNS = ("stage, on validation", "before", "after", "change", "deployed", "time", "parameters", "note")


def stage_rows(stages: Stages) -> list[list[str]]:
    """The cells of `STAGE_COLUMNS`: the score before and after, whether it is deployed, its share of the time."""
    # what another run trained took no time here
    total = sum(float(stage.get("seconds") or 0.0) for stage in stages.values() if not stage.get("reused"))
    rows = []
    for name, stage in stages.items():
        before, after = stage.get("score_before"), stage.get("score_after")
        parameters = stage.get("parameters")
        rows.append(
            [
                name,
                number(before),
                number(after),
                _change(before, after),
                "yes" if stage.get("kept") else "left out",
                _time(stage, total),
                f"{parameters:,}" if parameters else "–",
                _note(stage),
            ]
        )
    return rows


def stages_table(stages: Stages) -> Table:
    """`stage_rows` for the terminal; without the column of notes where there are none."""
    rows = stage_rows(stages)
    shown = len(STAGE_COLUMNS) if any(row[-1] for row in rows) else len(STAGE_COLUMNS) - 1
    table = Table()
    for label in STAGE_COLUMNS[:shown]:
        table.add_column(label, justify="left" if label in (STAGE_COLUMNS[0], "deployed", "note") else "right")
    for row, stage in zip(rows, stages.values(), strict=True):
        table.add_row(*map(Text, row[:shown]), style="" if stage.get("kept") else "dim")
    return table


def _note(stage: Mapping[str, Any]) -> str:
    """The stage's own words, or how it ended where it did not come to its end."""
    status = str(stage.get("status", "COMPLETE"))
    return str(stage.get("note") or ("" if status == "COMPLETE" else status))


def _time(stage: Mapping[str, Any], total: float) -> str:
    if stage.get("reused"):
        return "reused"
    seconds = stage.get("seconds")
    if seconds is None:
        return "–"
    return f"{seconds:.3g} s" + (f" ({seconds / total:.0%})" if total > 0 else "")


def _change(before: float | None, after: float | None) -> str:
    """How much smaller or larger the error became."""
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)) or before <= 0:
        return "–"
    return f"{after / before - 1:+.1%}"

"""Everything below a folder that has a test error, best first: runs, and studies by what they promoted.

Only what was scored on the same trajectories under the same protocol is ranked together.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tune.objectives import best_of
from tune.promotion import RECORD
from tune.study import load_study
from ups.core.errors import UserError
from ups.evaluation import plots
from ups.evaluation.compare import comparable
from ups.evaluation.evaluate import Report
from ups.evaluation.report import FILE_NAME, load_report, protocol_line, reference_rows
from ups.evaluation.runs import RESULT, load_result
from ups.evaluation.stages import number
from ups.pages.images import image
from ups.pages.page import page, remark, section, table

DRAWN = 20
"""entries of a protocol, the best"""
COLUMNS = ("rank", "folder", "what", "test error", "validation", "training", "parameters", "s/trajectory", "golden")
_CSV = (
    "protocol",
    "rank",
    "folder",
    "kind",
    "equation",
    "files",
    "test_rollout_nrmse",
    "validation_rollout_nrmse",
    "training_seconds",
    "parameters",
    "seconds_per_trajectory",
    "golden",
)


@dataclass(frozen=True)
class Entry:
    """A run or a study."""

    folder: Path
    kind: str
    """run, or study"""
    test: float | None
    """rollout nRMSE on test trajectories; of a study the mean of its promotion's winner over fresh seeds"""
    validation: float | None
    """of a study that of its best trial"""
    seconds: float
    """of training; of a study summed over its trials"""
    parameters: float | None
    rollout_seconds: float | None
    golden: str
    """confirmed, not confirmed, or empty: of a study its promotion, of a run the golden config that trained it"""
    report: Report | None
    """whose protocol holds; None where nothing was tested"""


@dataclass(frozen=True)
class Leaderboard:
    groups: tuple[tuple[Entry, ...], ...]
    """by protocol, each best first"""
    untested: tuple[Entry, ...]
    """studies that have promoted nothing"""
    unread: dict[Path, str] = field(default_factory=dict)
    """folder -> why it is left out"""


def load_leaderboard(folder: Path) -> Leaderboard:
    """All finished runs and all studies below a folder; what belongs to a study does not count on its own.

    Raises:
        UserError: there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds runs or studies")
    entries: list[Entry] = []
    unread: dict[Path, str] = {}
    for found in _folders(folder):
        try:
            entries.append(_study(found) if (found / "study.yaml").is_file() else _run(found))
        except UserError as error:
            unread[found] = str(error)
    if not entries and not unread:
        raise UserError(f"{folder}: no finished run with a {FILE_NAME} and no study in it; `ups train` writes the one")
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.report is not None:
            groups.setdefault(json.dumps(comparable(entry.report), sort_keys=True), []).append(entry)
    ranked = (tuple(sorted(group, key=lambda entry: _order(entry.test))) for group in groups.values())
    untested = tuple(entry for entry in entries if entry.report is None)
    return Leaderboard(tuple(sorted(ranked, key=lambda group: (_title(group), -len(group)))), untested, unread)


def leaderboard_table(board: Leaderboard) -> Group:
    """For the terminal: one table for each protocol."""
    parts: list[Table | Text] = []
    for title, group in _sections(board):
        shown = Table(title=Text(title), title_justify="left", title_style="bold")
        for label in COLUMNS:
            text = label in ("folder", "what", "golden")
            shown.add_column(label, justify="left" if text else "right", overflow="fold")
        for row in _rows(group):
            shown.add_row(*map(Text, row))
        parts.append(shown)
    return Group(*parts, *(Text(f"left out: {why}", style="yellow") for why in board.unread.values()))


def leaderboard_csv(board: Leaderboard) -> str:
    """One line for each entry; rows compare where `protocol`, a number, and so the trajectories, are equal."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV)
    for protocol, group in enumerate((*board.groups, board.untested), start=1):
        for rank, entry in enumerate(group, start=1):
            known: dict[str, Any] = {} if entry.report is None else entry.report.protocol
            writer.writerow(
                [
                    protocol if known else "",
                    rank if known else "",
                    entry.folder,
                    entry.kind,
                    known.get("equation", ""),
                    " ".join(known.get("files", ())),
                    *("" if each is None else each for each in (entry.test, entry.validation, entry.seconds)),
                    *("" if each is None else each for each in (entry.parameters, entry.rollout_seconds)),
                    entry.golden,
                ]
            )
    return stream.getvalue()


def leaderboard_html(board: Leaderboard, folder: Path) -> str:
    """A page of its own: for each protocol its table, and the errors drawn beside those who know nothing."""
    sections = []
    for title, group in _sections(board):
        content = table(title, COLUMNS, _rows(group), short=True)
        tested = {str(entry.folder): entry.test for entry in group[:DRAWN] if entry.test is not None}
        if len(tested) > 1 and group[0].report is not None:
            said = f"The best {len(tested)}, from {number(min(tested.values()))} to {number(max(tested.values()))}."
            figure = plots.error_bars(tested, reference_rows(group[0].report))
            content += image("Test errors", said, plots.png(figure))
        sections.append(section(title, content))
    if board.unread:
        sections.append(section("Left out", "".join(map(remark, board.unread.values()))))
    return page(f"Leaderboard of {folder.resolve().name}", sections)


def _folders(top: Path) -> Iterable[Path]:
    """Folders of studies and of finished runs, not looking into either."""
    for path, below, files in os.walk(top):
        below.sort()
        if "study.yaml" in files or (FILE_NAME in files and RESULT in files):
            below.clear()
            yield Path(path)


def _run(folder: Path) -> Entry:
    report, result = load_report(folder / FILE_NAME), load_result(folder)
    return Entry(
        folder=folder,
        kind="run",
        test=report.metrics["rollout_nrmse"],
        validation=result.score,
        seconds=result.seconds,
        parameters=report.cost.get("parameters"),
        rollout_seconds=report.cost.get("rollout_seconds"),
        golden=_golden_of_run(folder),
        report=report,
    )


def _golden_of_run(folder: Path) -> str:
    path = folder / "config.yaml"
    story = yaml.safe_load(path.read_text(encoding="utf-8")).get("provenance") if path.is_file() else None
    return "" if not story else ("confirmed" if story.get("confirmed") else "not confirmed")


def _study(folder: Path) -> Entry:
    study = load_study(folder)
    best = best_of(study.trials, study.config)
    promotion = json.loads((folder / RECORD).read_text(encoding="utf-8")) if (folder / RECORD).is_file() else {}
    report, scores = _promoted(folder, promotion)
    return Entry(
        folder=folder,
        kind=f"study, {promotion['winner']}" if scores else f"study, {len(study.trials)} trials",
        test=fmean(scores) if scores else None,
        validation=None if best is None else best.score,
        seconds=sum(trial.seconds for trial in study.trials),
        parameters=report.cost.get("parameters") if report else (best.parameters if best else None),
        rollout_seconds=report.cost.get("rollout_seconds") if report else None,
        golden="" if not promotion else ("confirmed" if promotion["confirmed"] else "not confirmed"),
        report=report,
    )


def _promoted(folder: Path, promotion: dict[str, Any]) -> tuple[Report | None, list[float]]:
    """The test report of the promotion's winner on one of its seeds, and its test errors on all of them."""
    winner = promotion.get("winner")
    scores = [score for score in promotion.get("test", {}).get(winner, {}).values() if score is not None]
    for contender in promotion.get("contenders", ()):
        for run in contender["runs"] if contender["name"] == winner and scores else ():
            path = folder / "confirm" / run["folder"] / FILE_NAME
            if path.is_file():
                return load_report(path), scores
    return None, []


def _sections(board: Leaderboard) -> list[tuple[str, tuple[Entry, ...]]]:
    found = [(_title(group), group) for group in board.groups]
    return [*found, ("Studies that have promoted nothing yet", board.untested)] if board.untested else found


def _title(group: Sequence[Entry]) -> str:
    report = group[0].report
    assert report is not None
    return f"{protocol_line(report)}; {', '.join(report.protocol.get('files', ()))}"


def _rows(group: Sequence[Entry]) -> list[list[str]]:
    rows = []
    for rank, entry in enumerate(group, start=1):
        rows.append(
            [
                "–" if entry.test is None else str(rank),
                str(entry.folder),
                entry.kind,
                number(entry.test),
                number(entry.validation),
                f"{entry.seconds:,.0f} s",
                f"{entry.parameters:,.0f}" if entry.parameters else "–",
                "–" if entry.rollout_seconds is None else f"{entry.rollout_seconds:.2g}",
                entry.golden or "–",
            ]
        )
    return rows


def _order(error: float | None) -> float:
    return math.inf if error is None else error

"""A run as one HTML page that loads nothing from elsewhere: how it went, what it scores, what it looks like."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ups.core.errors import UserError
from ups.core.types import RunResult
from ups.evaluation.beside import Beside, load_beside, task_protocol
from ups.evaluation.compare import comparable
from ups.evaluation.evaluate import Report
from ups.evaluation.pictures import pictures_of_run
from ups.evaluation.report import (
    FILE_NAME,
    cells_words,
    further_rows,
    load_report,
    protocol_line,
    reference_rows,
    rollout_rows,
)
from ups.evaluation.runs import load_result, task_of
from ups.evaluation.search_table import search_html
from ups.evaluation.stages import STAGE_COLUMNS, number, stage_rows
from ups.pages.charts import AMBER, BLUE, GREY, RED, Axis, Layer, Line, Points, chart
from ups.pages.page import cards, details, gallery, page, remark, section, table

_COLOURS = (BLUE, AMBER, RED, GREY)
_MOST_POINTS = 400
"""of a line; more is not seen, and makes the page heavy"""


def run_page(run: Path, beside: Sequence[Path] = ()) -> str:
    """The page of a run that has ended, well or not.

    Its sections: summary, course of training, pictures (see `pictures_of_run`), what it scores, search at test time
    where it has one, config. What a run does not have is left out with a remark. The pictures are of the part of the
    data that its report is about, which is test; a run that has none, such as a trial of a search, has not been shown
    test trajectories, and is not shown them here: its pictures are of validation trajectories.

    Args:
        beside: finished runs of the same task, which are shown beside it.

    Raises:
        UserError: the run has not finished, or this is no run folder; or one of `beside` is refused, see `load_beside`,
            or stands beside a report that is not about test.
    """
    result = load_result(run)
    report = load_report(run / FILE_NAME) if (run / FILE_NAME).is_file() else None
    if beside and report is not None and report.protocol.get("split") != "test":
        raise UserError(
            f"{run / FILE_NAME}: is not about test trajectories, as --beside needs; `ups evaluate {run} --json "
            f"{run / FILE_NAME}` writes one that is"
        )
    peers = (
        load_beside(beside, comparable(report) if report else task_protocol(task_of(run)), str(run)) if beside else []
    )
    try:
        pictures = _pictures(run, report, peers)
    except UserError as error:
        pictures = remark(f"No pictures: {error}.")
    sections = [
        section("Summary", _summary(result, report)),
        section("Course of training", _course(run, result)),
        section("Pictures", pictures),
    ]
    if report is not None:
        sections.append(section("Scores", _scores(report)))
        if report.ttc is not None:
            sections.append(section("Search at test time", search_html(report)))
    sections.append(section("Config", _config(run)))
    return page(f"Run {run.resolve().name}", sections)


def _pictures(run: Path, report: Report | None, beside: Sequence[Beside]) -> str:
    split = report.protocol.get("split") if report is not None else None
    if split is not None:
        return pictures_of_run(run, split, beside=beside).html
    told = "Of validation trajectories: the run has no report on test, and no test trajectory is looked at here."
    return remark(told) + pictures_of_run(run, "validation", beside=beside).html


def _summary(result: RunResult, report: Report | None) -> str:
    facts = [("status", str(result.status), result.reason)]
    if report is not None:
        told = (
            f"mean over {report.protocol['trajectories']}, median {number(report.metrics.get('rollout_nrmse_median'))}"
        )
        facts.append(("test rollout nRMSE", number(report.metrics["rollout_nrmse"]), told))
        if "one_step_nrmse" in report.metrics:
            facts.append(("one step", number(report.metrics["one_step_nrmse"]), "test nRMSE"))
        error = report.metrics["rollout_nrmse"]
        for name, value in reference_rows(report).items():
            against = f"this run has {error / value:.3g} times that" if value > 0 and math.isfinite(error) else ""
            facts.append((name, number(value), against))
    facts.append(("validation rollout nRMSE", number(result.score), "what the run was chosen by"))
    reused = f"reused: {', '.join(result.reused_stages)}" if result.reused_stages else "over all stages"
    facts.append(("training time", f"{result.seconds:.4g} s", reused))
    speed = "" if result.inference_ms is None else f"{result.inference_ms:.3g} ms a step of one trajectory"
    facts.append(("parameters", f"{result.parameters:,}", speed))
    return cards(facts)


def _course(run: Path, result: RunResult) -> str:
    """Score, loss, gradient norm and learning rate over the stages, and what each stage brought."""
    lines = _progress(run / "progress.jsonl")
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    shown = [
        _line_chart(
            "Validation score", "validation rollout_nrmse", lines, stages, lambda line: line["score"], dots=True
        ),
        _line_chart("Training loss", "loss", lines, stages, lambda line: line["train_loss"] or None),
        _line_chart("Gradient norm", "norm before clipping", lines, stages, lambda line: line["grad_norm"] or None),
        # runs from before it was recorded have none
        _line_chart("Learning rate", "learning rate", lines, stages, lambda line: line.get("lr"), log=False),
    ]
    parts = [gallery([each for each in shown if each])]
    if result.stages:
        rows = stage_rows(result.stages)
        parts.append(table("Stages", STAGE_COLUMNS, rows, short=not any(row[-1] for row in rows)))
    return "".join(parts)


def _progress(path: Path) -> list[dict[str, Any]]:
    """The reports of the run in their order; of a step that was repeated after a restart the last one."""
    if not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = {(line["stage"], line["step"], line["score"] is None): line for line in found}
    stages = list(dict.fromkeys(line["stage"] for line in found))
    return sorted(last.values(), key=lambda line: (stages.index(line["stage"]), line["step"]))


def _line_chart(
    title: str,
    label: str,
    lines: Sequence[dict[str, Any]],
    stages: Sequence[str],
    value: Callable[[dict[str, Any]], float | None],
    *,
    dots: bool = False,
    log: bool | None = None,
) -> str:
    """One line for each stage over the share of the stages that is done; empty where nothing is known."""
    layers: list[Layer] = []
    said = []
    for place, stage in enumerate(stages):
        known = [(place + line["share"], value(line)) for line in lines if line["stage"] == stage]
        points = [(x, y) for x, y in known if y is not None and math.isfinite(y)]
        if not points:
            continue
        step = math.ceil(len(points) / _MOST_POINTS)
        points = [*points[:-1:step], points[-1]]
        x, y = [x for x, _ in points], [y for _, y in points]
        colour = _COLOURS[place % len(_COLOURS)]
        layers.append(Line(x, y, stage, colour))
        if dots:
            titles = [f"{stage} {at - place:.0%}: {number(score)}" for at, score in points]
            layers.append(Points(x, y, "", colour, titles=titles))
        between = f", at most {number(max(y))}" if max(y) > max(y[0], y[-1]) else ""
        said.append(f"{stage} from {number(y[0])} to {number(y[-1])}{between}")
    if not layers:
        return ""
    several = len(stages) > 1
    across = Axis("stages done" if several else f"share of the stage {stages[0]}", log=False, whole=several)
    return chart(title, f"{'; '.join(said)}.", across, Axis(label, log=log), layers)


def _scores(report: Report) -> str:
    parts = [
        f"<p>{escape(protocol_line(report))}</p>",
        table("Errors", ("nRMSE", "mean", "s/trajectory"), rollout_rows(report), short=True),
        table("Further metrics", ("metric", "value"), further_rows(report), short=True),
        *(remark(note) for note in report.notes),
    ]
    if report.zero_shot is not None:
        parts.append(
            f"<h3>Zero-shot at {escape(cells_words(report.zero_shot.protocol))}</h3>{_scores(report.zero_shot)}"
        )
    return "".join(parts)


def _config(run: Path) -> str:
    path = run / "config.yaml"
    if not path.is_file():
        return remark(f"{path} is gone.")
    text = escape(path.read_text(encoding="utf-8"))
    shown = f'<div class="wide" role="region" tabindex="0" aria-label="Config"><pre>{text}</pre></div>'
    return details(f"Everything that determines the run ({path.name})", shown)

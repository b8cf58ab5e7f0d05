"""A search at test time for readers: the same tables in the terminal and on a page, and error against budget drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ups.evaluation import plots
from ups.evaluation.evaluate import Report
from ups.evaluation.search_report import Cost, SearchReport
from ups.evaluation.stages import number
from ups.pages.images import image
from ups.pages.page import gallery, table


@dataclass(frozen=True)
class Section:
    """A table without a medium; the first column is text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    """columns of text, the rest are numbers"""


def search_sections(report: Report) -> tuple[Section, ...]:
    """What the search brought and cost, error against budget, and the terms of the reward; none without a search."""
    if report.ttc is None:
        return ()
    sections = [_rollouts(report, report.ttc)]
    if len(report.ttc.curve) > 1:
        sections.append(_budget(report.ttc))
    if report.ttc.terms:
        sections.append(_terms(report.ttc))
    return tuple(sections)


def search_group(report: Report) -> Group:
    """The sections for the terminal."""
    tables = []
    for section in search_sections(report):
        shown = Table()
        for place, label in enumerate(section.header):
            shown.add_column(label, justify="left" if place in section.words else "right")
        for row in section.rows:
            shown.add_row(*map(Text, row))
        tables.append(shown)
    return Group(*tables)


def search_html(report: Report) -> str:
    """The sections and the picture of one run, as a part of a page; empty without a search."""
    if report.ttc is None:
        return ""
    parts = [
        table(found.header[0], found.header, found.rows, short=len(found.words) == 1)
        for found in search_sections(report)
    ]
    if len(report.ttc.curve) > 1:
        first, last = report.ttc.curve[0], report.ttc.curve[-1]
        said = (
            f"Rollout nRMSE over {report.ttc.examined} trajectories: {number(first.nrmse)} without a search, "
            f"{number(last.nrmse)} with {last.candidates} candidates a step."
        )
        parts.append(gallery([image("Error against candidates", said, budget_png(report))]))
    return "".join(parts)


def budget_png(report: Report) -> bytes:
    """Error against the number of candidates, with the plain rollout, the oracles and the solvers as levels."""
    found = report.ttc
    assert found is not None, "the report has no search"
    levels = {"without": found.examined_plain_nrmse}
    levels |= {
        f"oracle by {choice} of {found.config['candidates']}": value for choice, value in found.oracle_nrmse.items()
    }
    if found.solver_nrmse is not None:
        levels["the reward's solver"] = found.solver_nrmse
        if "coarse_solver_rollout_nrmse" in report.metrics:
            levels["coarse solver"] = report.metrics["coarse_solver_rollout_nrmse"]
    figure = plots.error_against_budget(
        [point.candidates for point in found.curve],
        [point.nrmse for point in found.curve],
        levels,
        title=f"{report.protocol['equation']}, search at test time, {found.examined} trajectories",
    )
    return plots.png(figure)


def _rollouts(report: Report, found: SearchReport) -> Section:
    rows: list[tuple[str, ...]] = []

    def add(label: str, nrmse: float, plain: float, cost: tuple[str, ...]) -> None:
        rows.append((label, number(nrmse), _over(nrmse, plain), *cost))

    unknown = ("–",) * 5
    add("with the search", found.nrmse, found.plain_nrmse, _costs(found.cost))
    add("without", found.plain_nrmse, found.plain_nrmse, _costs(found.plain_cost))
    part = "" if found.examined == len(report.trajectory_nrmse) else f", {found.examined} trajectories"
    for choice, value in found.oracle_nrmse.items():
        add(f"oracle, choice by {choice}{part}", value, found.examined_plain_nrmse, unknown)
    if "coarse_solver_rollout_nrmse" in report.metrics:
        seconds = number(report.cost.get("coarse_solver_rollout_seconds"))
        solver = report.metrics["coarse_solver_rollout_nrmse"]
        add("coarse solver", solver, found.plain_nrmse, (seconds, *unknown[1:]))
    if found.solver_nrmse is not None:
        add(
            "the reward's solver alone",
            found.solver_nrmse,
            found.plain_nrmse,
            (number(found.solver_seconds), *unknown[1:]),
        )
    if found.oracle_nrmse:
        rows.append(("one step, the best candidate", "–", f"{found.one_step_oracle:.3f}", *unknown))
        rows.append(("one step, the reward's choice", "–", f"{found.one_step_reward:.3f}", *unknown))
    header = ("search at test time", "rollout nRMSE", "over plain", "s/trajectory", "A", "source", "decoder", "judged")
    return Section(header, tuple(rows))


def _costs(cost: Cost) -> tuple[str, ...]:
    counts = (cost.operator, cost.source, cost.decoder, cost.evaluations)
    return (number(cost.seconds), *(f"{count:,.0f}" for count in counts))


def _budget(found: SearchReport) -> Section:
    first = found.curve[0]
    rows = (
        (
            f"{point.candidates}{' (configured)' if point.candidates == found.config['candidates'] else ''}",
            f"{point.evaluations:.3g}",
            number(point.nrmse),
            _over(point.nrmse, first.nrmse),
            number(point.seconds),
            _over(point.seconds, first.seconds),
        )
        for point in found.curve
    )
    header = ("candidates", "judged a step", "rollout nRMSE", "over plain", "s/trajectory", "time over plain")
    return Section(header, tuple(rows))


def _terms(found: SearchReport) -> Section:
    return Section(
        ("term of the reward", "used", "rank corr., fit", "here", "tolerance", "spread", "why not"),
        tuple(_term_rows(found)),
        (0, 1, 6),
    )


def _term_rows(found: SearchReport) -> Iterator[tuple[str, ...]]:
    for term in found.terms:
        yield (
            term.name,
            "yes" if term.used else "no",
            f"{term.training_correlation:.2f}",
            _two(term.correlation),
            number(term.tolerance),
            number(term.spread),
            term.reason,
        )
    yield ("all that are used", "", "", _two(found.correlation), "", "", "")


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _over(value: float, plain: float) -> str:
    return f"{value / plain:.3f}" if math.isfinite(value) and 0 < plain < math.inf else "–"

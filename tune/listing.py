"""Tables, lines and JSON about a study: what `ups search` and `ups trials` print."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rich.table import Table

from tune.live import best_line, shown_params, shown_score, shown_seconds
from tune.objectives import (
    HEADINGS,
    broken,
    claim,
    further_metrics,
    is_eligible,
    noise_floor,
    pareto_front,
    remarks,
    shown_metric,
)
from tune.preview import Sampled
from tune.search import Summary
from tune.space import SearchConfig
from tune.study import Plan, StudyFolder, TrialRecord
from ups.core.types import Status

_KEYS = ("number", "state", "score", "reason", "params", "seconds", "reused_stages", "metrics")
"""of `trials --json`: stable, other programs read them"""


def trials_table(study: StudyFolder, top: int) -> Table:
    """The best trials first, then those that break a constraint or repeat the base, last those with no final score."""
    config = study.config
    records = sorted(study.trials, key=lambda record: _rank(record, config))
    states = Counter(str(record.state) for record in records)
    counts = ", ".join(f"{state} {count}" for state, count in sorted(states.items()))
    return _table(f"{study.path}: {len(records)} trials ({counts})", records[:top], config)


def pareto_table(study: StudyFolder) -> Table | None:
    """The Pareto front of a study with several objectives, by error; None with one."""
    config = study.config
    if len(config.objectives) == 1:
        return None
    names = ", ".join(objective.metric for objective in config.objectives)
    front = pareto_front(study.trials, config)
    return _table(f"Pareto front of {names}: {len(front)} trials that no other beats in all of them", front, config)


def _table(title: str, records: Sequence[TrialRecord], config: SearchConfig) -> Table:
    further = further_metrics(config)
    numbers = ("trial", "rollout_nrmse", "time", *(HEADINGS[name] for name in further))
    table = Table(title=title, title_justify="left")
    for name in ("trial", "state", *numbers[1:], "parameters", "reason"):
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for record in records:
        table.add_row(
            str(record.number),
            record.state,
            shown_score(record.score),
            shown_seconds(record.seconds),
            *(shown_metric(name, record) for name in further),
            shown_params(record.params) if record.number else "base",
            "; ".join(remarks(record, config)),
        )
    return table


def trials_json(records: Sequence[TrialRecord]) -> str:
    """Every trial by number."""
    rows = [{key: record.to_json()[key] for key in _KEYS} for record in records]
    return json.dumps(rows, indent=1) + "\n"


def preview_table(plan: Plan, sampled: Sequence[Sampled], *, trains: bool = True) -> Table:
    """The base and some sampled configs, with their size and cost, and what all trials would cost unpruned."""
    strategy = plan.config.strategy
    known = [each.seconds for each in sampled if each.seconds is not None]
    total = fmean(known) * strategy.trials if known else 0.0
    table = Table(title="Sampled from the space, nothing trained", title_justify="left")
    for name, justify in (("", "left"), ("weights", "right"), ("time", "right"), ("parameters", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for number, each in enumerate(sampled):
        table.add_row(
            str(number) if number else "base",
            "–" if each.parameters is None else f"{each.parameters:,}",
            shown_seconds(each.seconds),
            f"INFEASIBLE: {each.reason}" if each.reason else shown_params(each.params),
        )
    condition = "if none were stopped early" if trains else "and train nothing"
    table.caption = f"{strategy.trials} trials would take about {shown_seconds(total)} on one worker {condition}"
    table.caption_justify = "left"
    return table


def summary_lines(summary: Summary) -> list[str]:
    """What a search came to."""
    counts = Counter(str(record.state) for record in summary.records)
    ended = len(summary.records) - counts[Status.RUNNING] - counts[Status.INTERRUPTED]
    lines = [
        f"{ended} of {summary.wanted} trials in {shown_seconds(summary.seconds)}: "
        + ", ".join(f"{state} {count}" for state, count in sorted(counts.items()))
    ]
    if summary.best is not None:
        lines.append(f"best rollout_nrmse on validation: {best_line(summary.best, summary.reference)}")
        lines.append(f"  {shown_params(summary.best.params)}")
    said = claim(summary.records, summary.config)
    if said is not None:
        lines.append(said)
    breaking = _breaking(summary)
    if breaking:
        lines.append(f"constraints: {breaking} of {counts[Status.COMPLETE]} that ran to their end break one")
    front = pareto_front(summary.records, summary.config)
    if len(summary.config.objectives) > 1:
        lines.append(
            f"Pareto front: {len(front)} trials, {', '.join(str(record.number) for record in front) or 'none'}"
        )
    rates = summary.explosion_rates()
    if rates is not None:
        lines.append(f"exploded: {rates[0]:.0%} of the first half of the sampled trials, {rates[1]:.0%} of the second")
    if summary.stop_reason is not None:
        lines.append(f"stopped early: {summary.stop_reason}; continue with --resume")
    lines.append(f"study: {summary.folder}")
    return lines


def summary_json(summary: Summary) -> dict[str, Any]:
    rates, floor = summary.explosion_rates(), noise_floor(summary.records)
    several = len(summary.config.objectives) > 1
    return {
        "study": str(summary.folder),
        "trials": len(summary.records),
        "wanted": summary.wanted,
        "states": dict(Counter(str(record.state) for record in summary.records)),
        "best": _brief(summary.best),
        "base": _brief(summary.base),
        "pareto_front": [_brief(record) for record in pareto_front(summary.records, summary.config)]
        if several
        else None,
        "breaking_a_constraint": _breaking(summary),
        "noise_floor": {**asdict(floor), "threshold": floor.threshold, "claim": claim(summary.records, summary.config)}
        if floor
        else None,
        "explosion_rate": {"first_half": rates[0], "second_half": rates[1]} if rates else None,
        "seconds": summary.seconds,
        "stop_reason": summary.stop_reason,
    }


def nothing_complete(summary: Summary) -> str:
    """Why a search has nothing to show."""
    states = {record.state for record in summary.records}
    last = next((record.reason for record in reversed(summary.records) if record.reason), "")
    example = f", such as: {last}" if last else ""
    if len(states) == 1:
        return f"{summary.folder}: every trial ended {states.pop()}{example}"
    return f"{summary.folder}: no trial ran to its end{example}"


def _breaking(summary: Summary) -> int:
    complete = (record for record in summary.records if record.state is Status.COMPLETE)
    return sum(bool(broken(record.metrics, summary.config)) for record in complete)


def _brief(record: TrialRecord | None) -> Mapping[str, Any] | None:
    return None if record is None else {key: record.to_json()[key] for key in _KEYS}


def _rank(record: TrialRecord, config: SearchConfig) -> tuple[int, float, int]:
    if record.state is not Status.COMPLETE or record.score is None:
        return 2, 0.0, record.number
    return (0 if is_eligible(record, config) else 1), record.score, record.number

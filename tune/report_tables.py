"""The tables of a study's report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tune.endings import Ending
from tune.figures import base_of
from tune.objectives import HEADINGS, further_metrics, is_eligible, remarks, shown_metric
from tune.sharing import Prefix, all_of
from tune.study import StudyFolder, TrialRecord
from ups.core.types import Status
from ups.pages.page import details, remark, table
from ups.training.stage_order import StagesConfig

BEST_ROWS = 10
STOPPED_ROWS = 200
"""single trials that are listed; what they ended with is counted for all"""
SPACE_ROWS = 12
"""parameters of a space from which on its table is folded away"""
_WIDEST = 8


def best_trials(study: StudyFolder) -> str:
    """The best scores with what was measured beside them, and apart the parameters, a column for each trial."""
    complete = [trial for trial in study.trials if trial.state is Status.COMPLETE and trial.score is not None]
    # those that break a constraint, and repetitions of the base, after all that may be the best
    complete.sort(key=lambda trial: (not is_eligible(trial, study.config), trial.score, trial.number))
    if not complete:
        return remark("No trial ran to the end.")
    shown = complete[:BEST_ROWS]
    more = f"The best {BEST_ROWS} of {len(complete)} that ran to the end." if len(complete) > BEST_ROWS else ""
    return scored("Best trials", shown, study) + (remark(more) if more else "")


def scored(name: str, trials: Sequence[TrialRecord], study: StudyFolder) -> str:
    """Tables of complete trials: what was measured of each beside the error, and their parameters."""
    base, config = base_of(study), study.config
    further = further_metrics(config)
    rows = [
        [
            _called(trial),
            number(trial.score),
            "" if base is None or trial is base else delta(trial, base),
            duration(trial.seconds),
            *(shown_metric(metric, trial) for metric in further),
            *(["\n".join(remarks(trial, config)) or "held"] if config.constraints else []),
        ]
        for trial in trials
    ]
    limits = ["constraints"] if config.constraints else []
    header = ["trial", "score", "to the base", "time", *(HEADINGS[metric] for metric in further), *limits]
    return table(name, header, rows) + _parameters(trials[:BEST_ROWS], study)


def _parameters(trials: Sequence[TrialRecord], study: StudyFolder) -> str:
    """A row for each parameter in which one of these trials differs from another or from the base."""
    flat = study.base.flat()
    rows = []
    for name in dict.fromkeys([*study.config.space, *(name for trial in trials for name in trial.params)]):
        base = value(flat[name]) if name in flat else "–"
        cells = [value(trial.params[name]) if name in trial.params else "–" for trial in trials]
        if len({base, *cells}) > 1:
            rows.append([name, base, *cells])
    if not rows:
        return ""
    header = ["parameter", "the base", *(_called(trial) for trial in trials)]
    return details("Their parameters", table("Parameters of these trials", header, rows))


def sharing(study: StudyFolder, roots: Sequence[Prefix]) -> str:
    """What each stage would have cost every trial alone, and which prefixes served the most trials."""
    every, cores = all_of(tuple(roots)), study.config.resources.cpus_per_trial
    saved = sum(each.saved for each in every) * cores
    spent = sum(trial.seconds for trial in study.trials) * cores
    told = (
        f"Trained once and used by all that need it: {duration(spent)} of core time were spent, and "
        f"{duration(saved)} more would have been without sharing."
    )
    unknown = sum(each.reused for each in every if not each.seconds)
    if unknown:
        told += f" {unknown} stage(s) came from a store that others had filled; what they cost is not counted."
    rows = []
    for stage in StagesConfig.model_fields:
        of_stage = [each for each in every if each.stage == stage]
        if of_stage:
            rows.append(
                [
                    stage,
                    str(sum(each.seconds > 0 for each in of_stage)),
                    str(sum(len(each.trials) for each in of_stage)),
                    str(sum(each.reused for each in of_stage)),
                    duration(sum(each.seconds for each in of_stage) * cores),
                    duration(sum(each.saved for each in of_stage) * cores),
                ]
            )
    header = ["stage", "trained", "trials that came to it", "found it finished", "time spent", "time saved"]
    parts = [f"<p>{escape(told)}</p>", table("What trials shared, by stage", header, rows)]
    widest = sorted((each for each in every if each.reused), key=lambda each: -each.saved)[:_WIDEST]
    if widest:
        header = ["stage", "first trial", "trials", "found it finished", "trained in", "time saved", "best score"]
        rows = [
            [
                each.stage,
                str(each.trials[0].number),
                str(len(each.trials)),
                str(each.reused),
                duration(each.seconds * cores),
                duration(each.saved * cores),
                number(each.best),
                _in_common(each, study),
            ]
            for each in widest
        ]
        what = table("Stages that saved the most", [*header, "what its trials have in common beside the base"], rows)
        parts.append(details(f"The {len(widest)} stages that saved the most", what))
    return "".join(parts)


def _in_common(prefix: Prefix, study: StudyFolder) -> str:
    """Where all of its trials differ from the base in the same way."""
    flat, first = study.base.flat(), prefix.trials[0].params
    same = [
        f"{name} = {value(chosen)}"
        for name, chosen in first.items()
        if chosen != flat.get(name) and all(trial.params.get(name) == chosen for trial in prefix.trials)
    ]
    return "\n".join(same) or "as the base"


def stopped(found: Sequence[Ending]) -> str:
    """Counts by state and kind of reason, and the single trials behind a line that opens them."""
    rows = [
        [
            str(each.state),
            each.kind,
            str(len(each.trials)),
            duration(sum(trial.seconds for trial in each.trials)),
            ", ".join(str(trial.number) for trial in each.trials[:3]) + (" …" if len(each.trials) > 3 else ""),
        ]
        for each in found
    ]
    counts = table("How often trials stopped for what", ["state", "reason", "trials", "time", "such as trial"], rows)
    single = sorted((trial for each in found for trial in each.trials), key=lambda trial: trial.number)
    lines = [
        [str(trial.number), str(trial.state), number(trial.score), duration(trial.seconds), trial.reason]
        for trial in single[:STOPPED_ROWS]
    ]
    header = ["trial", "state", "last score", "time", "reason"]
    more = remark(f"The first {STOPPED_ROWS} of {len(single)}.") if len(single) > STOPPED_ROWS else ""
    listed = table("Trials that did not run to the end", header, lines) + more
    return counts + details(f"Each of the {len(single)} trials that did not run to the end", listed)


def confirmation(promotion: Mapping[str, Any] | None) -> str:
    """Every score on fresh seeds, who was passed over, and what the winner changes."""
    if promotion is None:
        return remark("Nothing was promoted yet.")
    parts = []
    for name, why in promotion.get("passed_over", {}).items():
        parts.append(f"<p>{escape(f'{name} was passed over: {why}.')}</p>")
    rows = [
        [
            each["name"],
            number(each["search_score"]),
            ", ".join(number(run["score"]) if run["status"] == "COMPLETE" else run["status"] for run in each["runs"]),
            number(each["mean_score"]),
            ", ".join(number(score) for score in promotion["test"].get(each["name"], {}).values()) or "not read",
        ]
        for each in promotion["contenders"]
    ]
    header = ["config", "in the search", "validation on fresh seeds", "mean", "test on fresh seeds"]
    if rows:
        parts.append(table("Scores on fresh seeds", header, rows))
    for each in promotion["contenders"]:
        if each["name"] == promotion["winner"] and each["changed"]:
            lines = [[path, value(both["base"]), value(both["here"])] for path, both in each["changed"].items()]
            changed = table("What the winner changes", ["path", "base", each["name"]], lines)
            parts.append(details(f"The {len(lines)} settings that the winner changes", changed))
    return "".join(parts) or remark("No config was trained on fresh seeds.")


def space(study: StudyFolder) -> str:
    """Domains and conditions of the space, and who proposed and stopped trials."""
    rows = [
        [
            name,
            ", ".join(map(str, domain.choice)) if domain.choice is not None else " to ".join(map(str, domain.bounds)),
            "log" if domain.log else ("choice" if domain.choice is not None else "linear"),
            ", ".join(f"{other}: {condition}" for other, condition in domain.when.items()),
        ]
        for name, domain in study.config.space.items()
    ]
    strategy = study.config.strategy
    limits = ", ".join(f"{name} at most {limit.max:g}" for name, limit in study.config.constraints.items())
    told = (
        f"Objectives {', '.join(each.metric for each in study.config.objectives)}; constraints {limits or 'none'}. "
        f"Base {study.config.base}; sampler {strategy.sampler}, scheduler {strategy.scheduler}, "
        f"keeping {strategy.keep:.0%} at each milestone, seed {strategy.seed}; data {', '.join(study.base.task.files)}."
    )
    domains = table("Search space", ["name", "values", "scale", "only when"], rows)
    shown = domains if len(rows) <= SPACE_ROWS else details(f"The {len(rows)} parameters of the space", domains)
    return f"<p>{escape(told)}</p>{shown}"


def _called(trial: TrialRecord) -> str:
    return str(trial.number) + ("" if trial.origin == "sampled" else f" ({Path(trial.origin).stem})")


def value(chosen: Any) -> str:
    return f"{chosen:.4g}" if isinstance(chosen, float) else str(chosen)


def number(score: float | None) -> str:
    return "–" if score is None else (f"{score:.4g}" if math.isfinite(score) else "not finite")


def delta(trial: TrialRecord, base: TrialRecord) -> str:
    """By how much the trial's score is above the base's."""
    if not trial.score or not base.score:
        return "–"
    return f"{trial.score / base.score - 1:+.0%}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

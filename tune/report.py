"""A study as one HTML page that loads nothing from elsewhere: what was found, what was stopped and why."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tune import confirm_figures, figures
from tune.objectives import (
    HEADINGS,
    best_of,
    claim,
    further_metrics,
    is_eligible,
    noise_floor,
    pareto_front,
    remarks,
    shown_metric,
)
from tune.promotion import RECORD
from tune.study import StudyFolder, TrialRecord, diverged_shares, load_study
from ups.core.errors import UserError
from ups.core.runtime import write_atomic
from ups.core.types import Status
from ups.evaluation.report import FILE_NAME
from ups.pages.page import gallery, page, remark, section, table

BEST_ROWS = 10
STOPPED_ROWS = 200


def write_report(study: Path, out: Path | None = None) -> Path:
    """Write the page of a study, finished or not, and return where it is; `out` defaults to STUDY/report.html.

    Raises:
        UserError: no study there, or the page cannot be written.
    """
    opened = load_study(study)
    target = out or opened.path / "report.html"
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name a file such as {target / 'report.html'}")
    content = render(opened, _read_json(opened.path / RECORD))
    try:
        write_atomic(target, content.encode())
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    return target


def render(study: StudyFolder, promotion: Mapping[str, Any] | None) -> str:
    """The whole page; `promotion` is the content of promotion.json."""
    name = study.path.resolve().name
    sections = [
        section("Summary", _summary(study, promotion)),
        section("Best trials", _best_trials(study)),
        *([section("Pareto front", _pareto(study))] if len(study.config.objectives) > 1 else []),
        section("Course of the search", _course(study)),
        section("Score against each parameter", gallery(figures.slices(study))),
        section("Trials that did not run to the end", _stopped(study)),
        section("Confirmation", _confirmation(study, promotion)),
        section("What was searched", _space(study)),
    ]
    return page(f"Search {name}", sections)


def _summary(study: StudyFolder, promotion: Mapping[str, Any] | None) -> str:
    best, base = best_of(study.trials, study.config), figures.base_of(study)
    facts: list[tuple[str, str, str]] = []
    if best is not None:
        facts.append(("best score", _number(best.score), f"trial {best.number}, validation rollout_nrmse"))
    else:
        ended = any(trial.state is Status.COMPLETE for trial in study.trials)
        facts.append(("best score", "none", f"no trial {'holds the constraints' if ended else 'ran to the end'}"))
    if base is not None:
        against = "the best trial is the base itself" if best is base else ""
        if best is not None and best is not base:
            against = f"the best is {_delta(best, base)} against it"
        facts.append(("score of the base", _number(base.score), against))
    floor = noise_floor(study.trials)
    if floor is not None:
        note = claim(study.trials, study.config) or f"standard deviation of the base over {floor.n} seeds"
        facts.append(("noise floor", _number(floor.sd), note))
    states = Counter(str(trial.state) for trial in study.trials)
    facts.append(
        (
            "trials",
            f"{len(study.trials)} of {study.config.strategy.trials}",
            ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none yet",
        )
    )
    shares = diverged_shares(study.trials)
    if shares is not None:
        note = "of the sampled trials, in the first and in the second half"
        facts.append(("exploded", f"{shares[0]:.0%} → {shares[1]:.0%}", note))
    spent = sum(trial.seconds for trial in study.trials) * study.config.resources.cpus_per_trial
    facts.append(("time spent", _duration(spent), "core time, summed over trials"))
    if promotion is not None:
        headline = "confirmed" if promotion["confirmed"] else "not confirmed"
        facts.append(("golden", headline, promotion["verdict"]))
    cards = "".join(
        f"<div><dt>{escape(label)}</dt><dd><strong>{escape(value)}</strong><span>{escape(note)}</span></dd></div>"
        for label, value, note in facts
    )
    return f'<dl class="facts">{cards}</dl>'


def _best_trials(study: StudyFolder) -> str:
    complete = [trial for trial in study.trials if trial.state is Status.COMPLETE and trial.score is not None]
    # those that break a constraint, and repetitions of the base, after all that may be the best
    complete.sort(key=lambda trial: (not is_eligible(trial, study.config), trial.score, trial.number))
    if not complete:
        return remark("No trial ran to the end.")
    more = f"The best {BEST_ROWS} of {len(complete)} that ran to the end." if len(complete) > BEST_ROWS else ""
    shown = _scored("Best trials", complete[:BEST_ROWS], study)
    return shown + (f'<p class="note">{more}</p>' if more else "")


def _scored(name: str, trials: Sequence[TrialRecord], study: StudyFolder) -> str:
    """A table of complete trials, with what was measured of each beside the error."""
    base, config = figures.base_of(study), study.config
    further = further_metrics(config)
    rows = [
        [
            str(trial.number) + ("" if trial.origin == "sampled" else f" ({Path(trial.origin).stem})"),
            _number(trial.score),
            "" if base is None or trial is base else _delta(trial, base),
            _duration(trial.seconds),
            *(shown_metric(metric, trial) for metric in further),
            *(["\n".join(remarks(trial, config)) or "held"] if config.constraints else []),
            _params(trial),
        ]
        for trial in trials
    ]
    limits = ["constraints"] if config.constraints else []
    header = ["trial", "score", "to the base", "time", *(HEADINGS[metric] for metric in further), *limits, "parameters"]
    return table(name, header, rows)


def _pareto(study: StudyFolder) -> str:
    front = pareto_front(study.trials, study.config)
    if not front:
        return remark("No trial is on it yet.")
    names = ", ".join(objective.metric for objective in study.config.objectives)
    told = f"The trials that no other one beats in all of {names}."
    return f"<p>{escape(told)}</p>" + _scored("Pareto front", front, study) + gallery(figures.pareto(study))


def _course(study: StudyFolder) -> str:
    if not study.trials:
        return remark("No trials yet.")
    return gallery([figures.scores_over_trials(study), figures.best_over_time(study), figures.learning_curves(study)])


def _stopped(study: StudyFolder) -> str:
    stopped = [trial for trial in study.trials if trial.state is not Status.COMPLETE]
    if not stopped:
        return remark("Every trial ran to the end." if study.trials else "No trials yet.")
    rows = [
        [
            str(trial.number),
            str(trial.state),
            _number(trial.score),
            _duration(trial.seconds),
            trial.reason,
            _params(trial),
        ]
        for trial in stopped[:STOPPED_ROWS]
    ]
    header = ["trial", "state", "last score", "time", "reason", "parameters"]
    more = f'<p class="note">The first {STOPPED_ROWS} of {len(stopped)}.</p>' if len(stopped) > STOPPED_ROWS else ""
    return table("Trials that did not run to the end", header, rows) + more


def _confirmation(study: StudyFolder, promotion: Mapping[str, Any] | None) -> str:
    if promotion is None:
        return remark("Nothing was promoted yet.")
    parts = [f"<p><strong>{escape(promotion['verdict'])}</strong></p>"]
    for name, why in promotion.get("passed_over", {}).items():
        parts.append(f"<p>{escape(f'{name} was passed over: {why}.')}</p>")
    comparison = promotion["comparison"]
    if comparison:
        low, high = comparison["low"], comparison["high"]
        parts.append(
            f"<p>Improvement on test {_number(comparison['improvement'])}, 95 % interval {_number(low)} to "
            f"{_number(high)} over {len(comparison['per_seed'])} seeds and {comparison['trajectories']} trajectories; "
            f"noise floor (standard deviation of the {escape(promotion['reference'])} over seeds) "
            f"{_number(promotion['noise_floor']['test'])}. The test split was read "
            f"{promotion['test_reads']['total']} time(s) so far.</p>"
        )
    rows = [
        [
            each["name"],
            _number(each["search_score"]),
            ", ".join(_number(run["score"]) if run["status"] == "COMPLETE" else run["status"] for run in each["runs"]),
            _number(each["mean_score"]),
            ", ".join(_number(score) for score in promotion["test"].get(each["name"], {}).values()) or "not read",
        ]
        for each in promotion["contenders"]
    ]
    header = ["config", "in the search", "validation on fresh seeds", "mean", "test on fresh seeds"]
    if rows:
        parts.append(table("Scores on fresh seeds", header, rows))
    charts = confirm_figures.confirmation(promotion)
    curves = _curves(study, promotion)
    if promotion["winner"] in curves:
        charts.append(confirm_figures.error_over_time(curves, promotion["winner"]))
    parts.append(gallery(charts))
    for each in promotion["contenders"]:
        if each["name"] == promotion["winner"] and each["changed"]:
            lines = [[path, _value(both["base"]), _value(both["here"])] for path, both in each["changed"].items()]
            parts.append(table("What the winner changes", ["path", "base", each["name"]], lines))
    return "".join(parts)


def _curves(study: StudyFolder, promotion: Mapping[str, Any]) -> dict[str, Any]:
    """Error over time of winner and reference, from the first run folder of each that still has its report."""
    found = {}
    for each in promotion["contenders"]:
        if each["name"] not in (promotion["winner"], promotion["reference"]):
            continue
        for run in each["runs"]:
            report = _read_json(study.path / "confirm" / run["folder"] / FILE_NAME)
            if report is not None:
                found[each["name"]] = report["curves"]
                break
    return found


def _space(study: StudyFolder) -> str:
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
    return f"<p>{escape(told)}</p>" + table("Search space", ["name", "values", "scale", "only when"], rows)


def _params(trial: TrialRecord) -> str:
    return "\n".join(f"{name} = {_value(value)}" for name, value in trial.params.items()) or "as the base"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else (f"{value:.4g}" if math.isfinite(value) else "not finite")


def _delta(trial: TrialRecord, base: TrialRecord) -> str:
    if not trial.score or not base.score:
        return "–"
    return f"{trial.score / base.score - 1:+.0%}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

"""The charts of a study's report, from its records alone. Scores are validation rollout_nrmse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tune.domain import Domain
from tune.objectives import HEADINGS, best_of, broken, is_eligible, noise_floor, pareto_front
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from tune.trial import DIVERGED
from ups.core.types import Status
from ups.pages.charts import AMBER, BLUE, GREY, PALE, RED, Axis, Layer, Line, Points, chart, short
from ups.training.pipeline import SEARCH, StagesConfig

_SCORE = Axis("validation rollout_nrmse")
_KINDS: tuple[tuple[str, str, Any, tuple[Status, ...]], ...] = (
    ("ran to the end", BLUE, "dot", (Status.COMPLETE,)),
    ("stopped early", GREY, "ring", (Status.PRUNED, Status.STALLED)),
    ("diverged or impossible", RED, "cross", DIVERGED),
    ("unfinished or failed", AMBER, "cross", (Status.RUNNING, Status.INTERRUPTED, Status.FAILED)),
)


def scores_over_trials(study: StudyFolder) -> str:
    """Every trial by number, the best so far, and the noise floor of the base."""
    best, floor = best_of(study.trials, study.config), noise_floor(study.trials)
    layers = _marks(study.trials, lambda trial: trial.number)
    numbers, lows = _best_so_far(study, [trial.number for trial in study.trials])
    if numbers:
        ends = [*numbers, study.trials[-1].number]
        layers.insert(0, Line(ends, [*lows, lows[-1]], "best so far", BLUE, steps=True))
    layers += _base_line(study, 0, study.trials[-1].number)
    if floor is not None:
        ends = [0.0, float(study.trials[-1].number)]
        layers.append(Line(ends, [floor.threshold] * 2, "noise floor of the base", GREY, dashed=True))
    said = f"{len(study.trials)} trials. "
    if best is not None:
        said += f"The best is trial {best.number} with {short(best.score or 0.0)}. "
    if floor is not None:
        said += f"Above the noise floor of {short(floor.threshold)} a score says no more than another seed. "
    said += "Trials without any score are marked on the strip at the top."
    return chart("Score over trials", said, Axis("trial", whole=True, log=False), _SCORE, layers)


def best_over_time(study: StudyFolder) -> str:
    """How the best score fell with the computing time spent."""
    spent, total = [], 0.0
    for trial in study.trials:
        total += trial.seconds * study.config.resources.cpus_per_trial
        spent.append(total)
    places, lows = _best_so_far(study, spent)
    if not places:
        return ""
    said = (
        f"The best score went from {short(lows[0])} to {short(lows[-1])} within {total:.0f} core-seconds of training."
    )
    line = Line([*places, total], [*lows, lows[-1]], "best so far", BLUE, steps=True)
    layers: list[Layer] = [line, *_base_line(study, 0.0, total)]
    return chart(
        "Best score over core-seconds", said, Axis("core-seconds, summed over trials", log=False), _SCORE, layers
    )


def learning_curves(study: StudyFolder) -> str:
    """Score of every trial at each of its validations, with the milestones at which trials are compared."""
    best = best_of(study.trials, study.config)
    curves = {trial.number: _curve(trial) for trial in study.trials}
    trained = {stage for curve in curves.values() for stage, _, _ in curve}
    stages = [name for name in (*StagesConfig.model_fields, SEARCH) if name in trained]
    if not stages:
        return ""
    heights = [score for curve in curves.values() for _, _, score in curve]
    layers: list[Layer] = []
    groups: dict[str, Points] = {}
    for stage, shares in study.config.strategy.milestones.items():
        for share in shares if stage in stages else ():
            at, label = stages.index(stage) + share, "" if layers else "milestone"
            layers.append(Line([at, at], [min(heights), max(heights)], label, AMBER, dashed=True, thin=True))
    labelled = False
    for trial in study.trials:
        x = [stages.index(stage) + share for stage, share, _ in curves[trial.number]]
        y = [score for _, _, score in curves[trial.number]]
        if not x:
            continue
        if trial is not best:
            layers.append(Line(x, y, "" if labelled else "a trial", PALE, thin=True))
            labelled = True
        if trial.state is not Status.COMPLETE:
            label, colour, mark = _kind(trial)
            before = groups.get(label, Points([], [], label, colour, mark))
            title = f"trial {trial.number}: {trial.state}, {trial.reason}"
            groups[label] = Points([*before.x, x[-1]], [*before.y, y[-1]], label, colour, mark, [*before.titles, title])
    if best is not None and curves[best.number]:
        x = [stages.index(stage) + share for stage, share, _ in curves[best.number]]
        layers.append(Line(x, [score for *_, score in curves[best.number]], f"trial {best.number}, the best", BLUE))
    said = (
        "Validation score of each trial as its training went on; a mark is where a trial was stopped. "
        "Dashed lines are the milestones at which trials are compared."
    )
    label = f"share of the stage {stages[0]}" if len(stages) == 1 else f"stages done: {', '.join(stages)}"
    return chart("Learning curves", said, Axis(label, log=False), _SCORE, [*layers, *groups.values()])


def slices(study: StudyFolder) -> list[str]:
    """For each name of the space: score against its value."""
    return [
        _slice(name, domain, [trial for trial in study.trials if name in trial.params], study.config)
        for name, domain in study.config.space.items()
        if any(name in trial.params for trial in study.trials)
    ]


def pareto(study: StudyFolder) -> list[str]:
    """For each further objective: the error against it, with the trials that no other one beats in all objectives."""
    config, charts = study.config, []
    front = pareto_front(study.trials, config)
    for metric in (objective.metric for objective in config.objectives[1:]):
        measured = [
            trial
            for trial in study.trials
            if trial.state is Status.COMPLETE and trial.score is not None and metric in trial.metrics
        ]
        groups: list[tuple[list[TrialRecord], str, str, Any]] = [
            ([trial for trial in measured if broken(trial.metrics, config)], "breaks a constraint", RED, "cross"),
            (
                [trial for trial in measured if trial not in front and is_eligible(trial, config)],
                "a trial",
                GREY,
                "ring",
            ),
            (list(front), "on the Pareto front", BLUE, "dot"),
        ]
        layers: list[Layer] = []
        if len(config.objectives) == 2:
            # by error, so the other objective falls: between two trials the dearer one is what there is
            line = sorted((trial.metrics[metric], trial.score or 0.0) for trial in front)
            layers.append(Line([x for x, _ in line], [y for _, y in line], colour=BLUE, steps=True))
        for trials, label, colour, mark in groups:
            if trials:
                x = [trial.metrics[metric] for trial in trials]
                titles = [f"{_title(trial)}, {metric} {trial.metrics[metric]:.4g}" for trial in trials]
                layers.append(Points(x, [trial.score for trial in trials], label, colour, mark, titles))
        if measured:
            said = f"{len(front)} of {len(measured)} trials that ran to the end are on the Pareto front."
            charts.append(chart(f"Error against {metric}", said, Axis(HEADINGS[metric]), _SCORE, layers))
    return charts


def _slice(name: str, domain: Domain, trials: list[TrialRecord], config: SearchConfig) -> str:
    if domain.choice is None:
        axis = Axis(name, log=domain.log, whole=domain.integers is not None)
        layers = _marks(trials, lambda trial: float(trial.params[name]))
    else:
        options = [str(option) for option in domain.choice]
        outside = [str(trial.params[name]) for trial in trials if str(trial.params[name]) not in options]
        places = tuple(dict.fromkeys([*options, *outside]))
        axis = Axis(name, categories=places)
        # side by side rather than on top of each other
        layers = _marks(trials, lambda trial: places.index(str(trial.params[name])) + 0.04 * (trial.number % 7 - 3))
    best = best_of(trials, config)
    said = f"{len(trials)} trials with a value of {name}."
    if best is not None:
        value = best.params[name]
        said += f" The best of them has {short(value) if isinstance(value, float) else value}."
    return chart(name, said, axis, _SCORE, layers)


def _marks(trials: Sequence[TrialRecord], place: Any) -> list[Layer]:
    layers: list[Layer] = []
    for label, colour, mark, states in _KINDS:
        chosen = [trial for trial in trials if trial.state in states]
        if chosen:
            layers.append(
                Points(
                    [place(trial) for trial in chosen],
                    [_finite(trial.score) for trial in chosen],
                    label,
                    colour,
                    mark,
                    [_title(trial) for trial in chosen],
                )
            )
    return layers


def _kind(trial: TrialRecord) -> tuple[str, str, Any]:
    return next((label, colour, mark) for label, colour, mark, states in _KINDS if trial.state in states)


def _title(trial: TrialRecord) -> str:
    score = f" {trial.score:.5g}" if trial.score is not None else ""
    return f"trial {trial.number}: {trial.state}{score}" + (f", {trial.reason}" if trial.reason else "")


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _curve(trial: TrialRecord) -> list[tuple[str, float, float]]:
    """(stage, share, score) of each finite validation."""
    found = []
    for key, score in trial.milestones.items():
        stage, share = key.rsplit(":", 1)
        if score is not None and math.isfinite(score):
            found.append((stage, float(share), score))
    return found


def _best_so_far(study: StudyFolder, places: Sequence[float]) -> tuple[list[float], list[float]]:
    """Where the best score of a trial that may be the best fell, and to what."""
    found: list[tuple[float, float]] = []
    for trial, place in zip(study.trials, places, strict=True):
        score = _finite(trial.score) if is_eligible(trial, study.config) else None
        if score is not None and (not found or score < found[-1][1]):
            found.append((place, score))
    return [place for place, _ in found], [score for _, score in found]


def _base_line(study: StudyFolder, start: float, end: float) -> list[Layer]:
    base = base_of(study)
    if base is None or base.score is None:
        return []
    return [Line([start, end], [base.score, base.score], "the base", AMBER, dashed=True)]


def base_of(study: StudyFolder) -> TrialRecord | None:
    """The trial of the base itself, if it ran to the end: what deltas refer to."""
    return next((trial for trial in study.trials if trial.origin == "base" and trial.state is Status.COMPLETE), None)

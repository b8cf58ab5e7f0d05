"""The charts of a search's course, from its records alone. Scores are validation rollout_nrmse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tune.endings import GROUPS
from tune.objectives import HEADINGS, best_of, broken, is_eligible, noise_floor, pareto_front
from tune.study import StudyFolder, TrialRecord
from ups.core.types import Status
from ups.pages.charts import AMBER, BLUE, GREY, RED, Axis, Bundle, Layer, Line, Mark, Points, chart, short
from ups.training.stage_order import SEARCH, StagesConfig

SCORE = Axis("validation rollout_nrmse")
CURVES = 300
"""learning curves that are drawn: of more trials an even choice by score, which tells as much"""
_TITLE_LETTERS = 120


def scores_over_trials(study: StudyFolder) -> str:
    """Every trial by number, the best so far, and the noise floor of the base."""
    best, floor = best_of(study.trials, study.config), noise_floor(study.trials)
    layers = marks(study.trials, lambda trial: trial.number)
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
    return chart("Score over trials", said, Axis("trial", whole=True, log=False), SCORE, layers)


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
        "Best score over core-seconds", said, Axis("core-seconds, summed over trials", log=False), SCORE, layers
    )


def learning_curves(study: StudyFolder) -> str:
    """Score of every trial at each of its validations, with the milestones at which trials are compared."""
    best = best_of(study.trials, study.config)
    curves = {trial.number: _curve(trial) for trial in study.trials}
    trained = {stage for curve in curves.values() for stage, _, _ in curve}
    stages = [name for name in (*StagesConfig.model_fields, SEARCH) if name in trained]
    if not stages:
        return ""
    drawn = [[(stages.index(stage) + share, score) for stage, share, score in curve] for curve in curves.values()]
    heights = [score for curve in drawn for _, score in curve]
    layers: list[Layer] = [Bundle(_thinned([curve for curve in drawn if curve]), "a trial")]
    rungs = [
        (stages.index(stage) + share)
        for stage, shares in study.config.strategy.milestones.items()
        for share in (shares if stage in stages else ())
    ]
    for index, rung in enumerate(rungs):
        label = "" if index else "milestone"
        layers.append(Line([rung, rung], [min(heights), max(heights)], label, AMBER, dashed=True, thin=True))
    for words, colour, mark, states in GROUPS[1:]:
        ends = [
            (curve[-1], trial)
            for curve, trial in zip(drawn, study.trials, strict=True)
            if curve and trial.state in states
        ]
        if ends:
            titles = [_title(trial) for _, trial in ends]
            layers.append(Points([x for (x, _), _ in ends], [y for (_, y), _ in ends], words, colour, mark, titles))
    if best is not None and curves[best.number]:
        curve = drawn[study.trials.index(best)]
        layers.append(Line([x for x, _ in curve], [y for _, y in curve], f"trial {best.number}, the best", BLUE))
    said = (
        "Validation score of each trial as its training went on; a mark is where a trial was stopped. "
        "Dashed lines are the milestones at which trials are compared."
    )
    label = f"share of the stage {stages[0]}" if len(stages) == 1 else f"stages done: {', '.join(stages)}"
    return chart("Learning curves", said, Axis(label, log=False), SCORE, layers)


def _thinned(curves: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """By last score, so that the choice has good ones and bad ones alike."""
    if len(curves) <= CURVES:
        return curves
    ranked = sorted(curves, key=lambda curve: curve[-1][1])
    return [ranked[round(index * (len(ranked) - 1) / (CURVES - 1))] for index in range(CURVES)]


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
        groups: list[tuple[list[TrialRecord], str, str, Mark]] = [
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
            charts.append(chart(f"Error against {metric}", said, Axis(HEADINGS[metric]), SCORE, layers))
    return charts


def marks(trials: Sequence[TrialRecord], place: Callable[[TrialRecord], float], *, titled: bool = True) -> list[Layer]:
    """Score of each trial at its place, told apart by how the trial ended; those that ran to the end on top."""
    layers: list[Layer] = []
    for label, colour, mark, states in (*GROUPS[1:], GROUPS[0]):
        chosen = [trial for trial in trials if trial.state in states]
        if chosen:
            layers.append(
                Points(
                    [place(trial) for trial in chosen],
                    [_finite(trial.score) for trial in chosen],
                    label,
                    colour,
                    mark,
                    [_title(trial) for trial in chosen] if titled else [],
                )
            )
    return layers


def _title(trial: TrialRecord) -> str:
    score = f" {trial.score:.5g}" if trial.score is not None else ""
    title = f"trial {trial.number}: {trial.state}{score}" + (f", {trial.reason}" if trial.reason else "")
    return title if len(title) <= _TITLE_LETTERS else title[: _TITLE_LETTERS - 1] + "…"


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

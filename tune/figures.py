"""The charts of a study's report, from its records alone. Scores are validation rollout_nrmse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune.charts import AMBER, BLUE, GREY, PALE, RED, Axis, Interval, Layer, Line, Points, chart, short
from tune.domain import Domain
from tune.study import StudyFolder, TrialRecord, best_of
from tune.trial import DIVERGED
from ups.core.types import Status
from ups.training.pipeline import SEARCH, StagesConfig

_SCORE = Axis("validation rollout_nrmse")
_KINDS: tuple[tuple[str, str, Any, tuple[Status, ...]], ...] = (
    ("ran to the end", BLUE, "dot", (Status.COMPLETE,)),
    ("stopped early", GREY, "ring", (Status.PRUNED, Status.STALLED)),
    ("diverged or impossible", RED, "cross", DIVERGED),
    ("unfinished or failed", AMBER, "cross", (Status.RUNNING, Status.INTERRUPTED, Status.FAILED)),
)


def scores_over_trials(study: StudyFolder) -> str:
    """Every trial by number, and the best so far."""
    best = best_of(study.trials)
    layers = _marks(study.trials, lambda trial: trial.number)
    numbers, lows = _best_so_far(study.trials, [trial.number for trial in study.trials])
    if numbers:
        ends = [*numbers, study.trials[-1].number]
        layers.insert(0, Line(ends, [*lows, lows[-1]], "best so far", BLUE, steps=True))
    layers += _base_line(study, 0, study.trials[-1].number)
    said = f"{len(study.trials)} trials. "
    if best is not None:
        said += f"The best is trial {best.number} with {short(best.score or 0.0)}. "
    said += "Trials without any score are marked on the strip at the top."
    return chart("Score over trials", said, Axis("trial", whole=True, log=False), _SCORE, layers)


def best_over_time(study: StudyFolder) -> str:
    """How the best score fell with the computing time spent."""
    spent, total = [], 0.0
    for trial in study.trials:
        total += trial.seconds * study.config.resources.cpus_per_worker
        spent.append(total)
    places, lows = _best_so_far(study.trials, spent)
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
    best = best_of(study.trials)
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
        _slice(name, domain, [trial for trial in study.trials if name in trial.params])
        for name, domain in study.config.space.items()
        if any(name in trial.params for trial in study.trials)
    ]


def confirmation(promotion: Mapping[str, Any]) -> list[str]:
    """Scores on the fresh seeds, and the improvement with its interval."""
    contenders = [each for each in promotion["contenders"] if each["runs"]]
    if not contenders:
        return []
    names = tuple(each["name"] for each in contenders)
    axis = Axis("config", categories=names)
    complete = [
        (index, run)
        for index, each in enumerate(contenders)
        for run in each["runs"]
        if run["status"] == "COMPLETE" and run["score"] is not None
    ]
    broken = [
        (index, run) for index, each in enumerate(contenders) for run in each["runs"] if (index, run) not in complete
    ]
    layers: list[Layer] = [
        Points(
            [index for index, _ in complete],
            [run["score"] for _, run in complete],
            "validation, one mark a seed",
            BLUE,
            titles=[f"{names[index]}, seed {run['seed']}: {run['score']:.5g}" for index, run in complete],
        )
    ]
    if broken:
        titles = [f"{names[index]}, seed {run['seed']}: {run['status']}, {run['reason']}" for index, run in broken]
        places = [index for index, _ in broken]
        layers.append(Points(places, [None] * len(broken), "did not come through", RED, "cross", titles))
    tested = [
        (names.index(name) + 0.18, float(score), f"{name}, seed {seed}: {score:.5g}")
        for name, scores in promotion["test"].items()
        for seed, score in scores.items()
        if score is not None
    ]
    if tested:
        x, y, notes = zip(*tested, strict=True)
        layers.append(Points(x, y, "test, one mark a seed", AMBER, "ring", notes))
    said = f"Rollout error of {', '.join(names)} on {len(promotion['seeds'])} fresh seeds."
    charts = [chart("Retraining on fresh seeds", said, axis, Axis("rollout_nrmse"), layers)]
    comparison = promotion["comparison"]
    if comparison:
        charts.append(_improvement(comparison, promotion))
    return charts


def error_over_time(curves: Mapping[str, Mapping[str, Sequence[float | None]]], winner: str) -> str:
    """Error of each predicted frame: winner and reference, beside the rows that anyone can check."""
    layers: list[Layer] = []
    of_winner = curves[winner]
    styles = {
        "persistence_rollout_nrmse": ("persistence (nothing changes)", GREY, True),
        "mean_rollout_nrmse": ("constant initial mean", RED, True),
        "coarse_solver_rollout_nrmse": ("coarse solver", AMBER, True),
    }
    for name, found in curves.items():
        colour = BLUE if name == winner else GREY
        layers.append(_over_time(found["time"], found["nrmse"], name, colour, dashed=False))
    for key, (label, colour, dashed) in styles.items():
        if key in of_winner:
            layers.append(_over_time(of_winner["time"], of_winner[key], label, colour, dashed))
    layers = [layer for layer in layers if layer.x]
    last = [value for value in of_winner["nrmse"] if value is not None]
    said = f"Mean error over the test trajectories, frame by frame; {winner} ends at {short(last[-1])}." if last else ""
    axes = Axis("physical time", log=False), Axis("nRMSE of the frame")
    return chart("Error over time on test", said or "The rollout leaves the finite range.", *axes, layers)


def _over_time(
    time: Sequence[float | None], values: Sequence[float | None], label: str, colour: str, dashed: bool
) -> Line:
    pairs = [(t, v) for t, v in zip(time, values, strict=True) if t is not None and v is not None and v > 0]
    return Line([t for t, _ in pairs], [v for _, v in pairs], label, colour, dashed)


def _improvement(comparison: Mapping[str, Any], promotion: Mapping[str, Any]) -> str:
    per_seed = comparison["per_seed"]
    label = f"{promotion['winner']} against {promotion['reference']}"
    layers: list[Layer] = [
        Line([-0.5, 1.5], [0.0, 0.0], "no difference", GREY, dashed=True),
        Interval([0.0], [comparison["low"]], [comparison["high"]], "95 % interval", BLUE),
        Points([0.0], [comparison["improvement"]], "mean", BLUE),
        Points([1.0] * len(per_seed), per_seed, "one seed", AMBER, "ring"),
    ]
    said = (
        f"Improvement of {label} on test: {short(comparison['improvement'])}, between {short(comparison['low'])} and "
        f"{short(comparison['high'])}; above zero is better."
    )
    axis = Axis(label, categories=("mean", "each seed"))
    return chart("Improvement on test", said, axis, Axis("decrease of rollout_nrmse", log=False), layers)


def _slice(name: str, domain: Domain, trials: list[TrialRecord]) -> str:
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
    best = best_of(trials)
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


def _best_so_far(trials: Sequence[TrialRecord], places: Sequence[float]) -> tuple[list[float], list[float]]:
    """Where the best score of a complete trial fell, and to what."""
    found: list[tuple[float, float]] = []
    for trial, place in zip(trials, places, strict=True):
        score = _finite(trial.score) if trial.state is Status.COMPLETE else None
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

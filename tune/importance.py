"""How much of the scores' variance each parameter explains, beside what a parameter without influence would get.

fANOVA: F. Hutter, H. Hoos and K. Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML
2014. A forest finds something in chance, too. So each parameter is judged beside a shadow of itself: the same values
dealt out anew among the trials, as in M. Kursa and W. Rudnicki, Feature Selection with the Boruta Package, J. Stat.
Softw. 36 (2010). Trials that share a stage share its parameters and much of their score; dealing out single trials
would break that up and put the floor too low. What belongs to a stage is therefore dealt out among the stages that
were trained.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from tune.domain import Domain, to_journal
from tune.levels import STAGES
from tune.objectives import scored
from tune.study import StudyFolder, TrialRecord
from tune.views import distribution_of

FEWEST = 20
"""complete trials, below which a forest says nothing"""
MOST = 200
"""complete trials that are looked at, an even choice of all: time grows with them, and the ranking does not change"""
REPEATS, TREES = 8, 16
"""forests, each with shadows and a seed of its own, and trees of one"""
SHADOWS = 4
"""of a forest, at least: where fewer parameters are judged, each has several"""
GROUPS = 6
"""sets of conditional parameters that are looked at, those with the most trials"""
SMALLEST = 0.01
"""share of the variance that nobody cares for, whether or not it is chance"""
QUANTILE = 0.95
"""of the largest shadow: the floor"""


@dataclass(frozen=True)
class Importance:
    """Of one parameter: share of the variance of log score that it explains on its own."""

    name: str
    mean: float
    low: float
    high: float
    """the smallest and the largest of the repetitions"""
    floor: float
    """what the most lucky of the parameters without influence gets"""

    @property
    def is_noise(self) -> bool:
        return self.mean <= max(self.floor, SMALLEST)


@dataclass(frozen=True)
class Panel:
    """Parameters that were judged together, the most important first."""

    condition: str
    """under which they are sampled; empty: always"""
    trials: int
    found: tuple[Importance, ...]


@dataclass(frozen=True)
class Ranking:
    complete: int
    """trials that could be looked at"""
    panels: tuple[Panel, ...]
    """the parameters that every trial has, then conditional ones; empty below `FEWEST` trials"""
    left_out: tuple[str, ...]
    """conditional names that too few trials have"""

    def order(self) -> list[str]:
        """Every name that was judged, those that all trials have first, by importance."""
        return [each.name for panel in self.panels for each in panel.found]


def rank(study: StudyFolder, names: Mapping[int, Mapping[str, str]], seed: int = 0) -> Ranking:
    """Rank the parameters of a study; the same study gives the same numbers.

    A forest needs a value of every parameter it looks at. Parameters that every trial has are judged on all trials;
    conditional ones on those trials whose condition held, beside whatever else all of these have.

    Args:
        names: what `tune.sharing.chains` gives.
    """
    space = study.config.space
    always = [name for name, domain in space.items() if not domain.when]
    pool = [
        trial
        for trial in scored(study.trials)
        if all(name in trial.params for name in always)
        # a given config may lie outside the space
        and all(domain.contains(trial.params[name]) for name, domain in space.items() if name in trial.params)
    ]
    conditions: dict[str, list[str]] = {}
    for name, domain in space.items():
        if domain.when:
            told = " and ".join(f"{other} is {condition}" for other, condition in domain.when.items())
            conditions.setdefault(told, []).append(name)
    with_them = {told: [trial for trial in pool if group[0] in trial.params] for told, group in conditions.items()}
    enough = [told for told in conditions if len(with_them[told]) >= FEWEST]
    enough.sort(key=lambda told: -len(with_them[told]))
    panels = [_panel("", always, pool, space, names, seed)] if len(pool) >= FEWEST else []
    if panels:
        panels += [_panel(told, conditions[told], with_them[told], space, names, seed) for told in enough[:GROUPS]]
    judged = [] if not panels else enough[:GROUPS]
    left_out = tuple(name for told, group in conditions.items() if told not in judged for name in group)
    return Ranking(len(pool), tuple(panel for panel in panels if panel.found), left_out)


def _panel(
    condition: str,
    asked: Sequence[str],
    trials: Sequence[TrialRecord],
    space: Mapping[str, Domain],
    names: Mapping[int, Mapping[str, str]],
    seed: int,
) -> Panel:
    count = len(trials)
    if count > MOST:
        trials = [trials[round(index)] for index in np.linspace(0, count - 1, MOST)]
    columns: dict[str, list[Any]] = {}
    for name in space:
        if all(name in trial.params for trial in trials):
            values = [_encoded(trial.params[name], space[name]) for trial in trials]
            if len(set(values)) > 1:
                columns[name] = values
    asked = [name for name in asked if name in columns]
    if not asked:
        return Panel(condition, count, ())
    kinds = {name: _distribution(space[name]) for name in columns}
    scores = _logarithms([trial.score or 0.0 for trial in trials])
    dealt = {name: _deal(columns[name], trials, names) for name in asked}
    real: dict[str, list[float]] = {name: [] for name in asked}
    floors: dict[str, list[float]] = {}
    copies = math.ceil(SHADOWS / len(asked))
    random = np.random.default_rng(seed)
    shadows = {
        f"{repeat} {copy} {name}": (name, dealt[name].again(columns[name], random))
        for repeat in range(REPEATS)
        for copy in range(copies)
        for name in asked
    }
    # all of them in one study, as it takes as long to make one as to look at it
    study = _study(
        {**columns, **{shadow: values for shadow, (_, values) in shadows.items()}},
        {**kinds, **{shadow: kinds[name] for shadow, (name, _) in shadows.items()}},
        scores,
    )
    for repeat in range(REPEATS):
        among = [shadow for shadow in shadows if shadow.startswith(f"{repeat} ")]
        found = _explained(study, [*columns, *among], seed + repeat)
        largest: dict[str, float] = {}
        for name in asked:
            real[name].append(found[name])
        for shadow in among:
            level = dealt[shadows[shadow][0]].level
            largest[level] = max(largest.get(level, 0.0), found[shadow])
        for level, value in largest.items():
            floors.setdefault(level, []).append(value)
    ranked = [
        Importance(
            name,
            float(np.mean(values)),
            min(values),
            max(values),
            float(np.quantile(floors[dealt[name].level], QUANTILE)),
        )
        for name, values in real.items()
    ]
    return Panel(condition, count, tuple(sorted(ranked, key=lambda each: (-each.mean, each.name))))


@dataclass(frozen=True)
class _Deal:
    """Which trials have to keep the same value of a parameter when its values are dealt out anew."""

    level: str
    """the stage that the parameter belongs to; empty: to each trial alone"""
    blocks: tuple[tuple[int, ...], ...]

    def again(self, values: Sequence[Any], random: np.random.Generator) -> list[Any]:
        dealt = list(values)
        for block, other in zip(self.blocks, random.permutation(len(self.blocks)), strict=True):
            for index in block:
                dealt[index] = values[self.blocks[other][0]]
        return dealt


def _deal(values: Sequence[Any], trials: Sequence[TrialRecord], names: Mapping[int, Mapping[str, str]]) -> _Deal:
    """By the first stage all of whose trials agree in the parameter."""
    for stage in STAGES:
        blocks: dict[str, list[int]] = {}
        for index, trial in enumerate(trials):
            blocks.setdefault(names.get(trial.number, {}).get(stage, f"alone {index}"), []).append(index)
        if all(values[index] == values[block[0]] for block in blocks.values() for index in block):
            return _Deal(stage, tuple(map(tuple, blocks.values())))
    return _Deal("", tuple((index,) for index in range(len(trials))))


def _study(
    columns: Mapping[str, Sequence[Any]], kinds: Mapping[str, BaseDistribution], scores: Sequence[float]
) -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(before)
    study.add_trials(
        [
            create_trial(
                params={name: values[index] for name, values in columns.items()}, distributions=dict(kinds), value=score
            )
            for index, score in enumerate(scores)
        ]
    )
    return study


def _explained(study: optuna.Study, columns: list[str], seed: int) -> dict[str, float]:
    """Share of the variance of the scores that each of these columns explains."""
    try:
        return FanovaImportanceEvaluator(n_trees=TREES, seed=seed).evaluate(study, params=columns)
    except RuntimeError:  # all scores are the same: nothing explains anything
        return dict.fromkeys(columns, 0.0)


def _distribution(domain: Domain) -> BaseDistribution:
    """As the domain, but a logarithmic one over the logarithm, as fANOVA weighs an interval by its length."""
    if not domain.log:
        return distribution_of(domain)
    return FloatDistribution(math.log(domain.bounds[0]) - 1e-9, math.log(domain.bounds[1]) + 1e-9)


def _encoded(value: Any, domain: Domain) -> Any:
    return math.log(value) if domain.log else to_journal(value)


def _logarithms(scores: Sequence[float]) -> list[float]:
    """Parameters multiply an error, and one large score would be all of the variance; 0 counts as the smallest."""
    smallest = min((score for score in scores if score > 0), default=1.0)
    return [math.log(max(score, smallest)) for score in scores]

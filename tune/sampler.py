"""Ask and tell: Optuna proposes trials, and learns from their outcomes.

What Optuna is told decides what it learns. A trial that raised would be FAIL, which TPE ignores: on a space with a
cliff it then proposes exploding trials for ever. So every verdict on a config is COMPLETE with a violated constraint.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Iterable, Mapping

import optuna
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from tune.domain import Domain, Value, from_journal, to_journal
from tune.space import Strategy
from tune.study import OpenStudy, TrialRecord
from tune.trial import DIVERGED, Outcome, Trial
from ups.core.types import Status

NO_SKILL = 1.0
"""score of a constant prediction: stands in for the worst complete score until there is one"""


def build_sampler(strategy: Strategy, number: int) -> BaseSampler:
    """The sampler that proposes trial `number`: its randomness comes from the seed and the number alone, so that
    what it proposes is a function of the journal and nothing has to be saved."""
    digest = hashlib.sha256(f"{strategy.seed}/{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    assert strategy.sampler != "grid", "a grid is enumerated"
    if strategy.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=seed,
            n_startup_trials=strategy.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def fix_params(params: Mapping[str, Value]) -> BaseSampler:
    """The sampler that proposes just these values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fixed = {name: to_journal(value) for name, value in params.items()}
        return PartialFixedSampler(fixed, RandomSampler())


class Proposer:
    """The ask-and-tell side of a study. Order: the base, `start_from`, then what the sampler or the grid says."""

    def __init__(self, study: OpenStudy) -> None:
        self._study = study
        self._strategy = study.plan.config.strategy
        self._space = study.plan.space
        self._to_resume = deque(study.unfinished())
        self._live: dict[int, optuna.Trial] = {}
        self._given = [("base", study.plan.base)]
        self._given += list(zip(study.plan.config.start_from, study.plan.start_from, strict=True))
        self._grid: list[dict[str, Value]] | None = None
        if self._strategy.sampler == "grid":
            self._grid = self._space.combinations_besides([config for _, config in self._given])

    @property
    def asked(self) -> int:
        """Number of trials that the study has, in whatever state."""
        return len(self._study.optuna.get_trials(deepcopy=False))

    def arrivals(self) -> Iterable[tuple[int, int, float]]:
        """(trial, milestone index, score) of every milestone that was ever judged."""
        for trial in self._study.optuna.get_trials(deepcopy=False):
            for index, score in trial.intermediate_values.items():
                yield trial.number, index, score

    def next(self) -> Trial | None:
        """The next trial: one that an earlier driver left unfinished, or a new one; None when all were asked."""
        if self._to_resume:
            return self._start(self._to_resume.popleft())
        return self._start(None) if self.asked < self._strategy.trials else None

    def report(self, number: int, index: int, score: float) -> None:
        """Write down that a trial reached a milestone."""
        self._live[number].report(score, index)

    def tell(self, number: int, outcome: Outcome) -> TrialRecord:
        """Close a trial: its record in the journal, its lesson to Optuna, its line in `trials.jsonl`."""
        trial = self._live.pop(number)
        attributes = {
            "state": str(outcome.state),
            "reason": outcome.reason,
            "score": outcome.score,
            "milestones": dict(outcome.milestones),
            "seconds": outcome.seconds,
            "parameters": outcome.parameters,
            "reused_stages": list(outcome.reused_stages),
        }
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        state, lesson = self._lesson(trial, outcome)
        self._study.optuna.tell(trial, lesson, state=state)
        return self._study.note_ended(number)

    def _start(self, left: FrozenTrial | None) -> Trial:
        """Ask for a new trial, or take up one that was left; parameters that the journal has stay as they are."""
        study = self._study.optuna
        number = self.asked if left is None else left.number
        origin, config = self._given[number] if number < len(self._given) else ("sampled", None)
        fixed = {} if config is None else self._space.params_of(config)
        if config is None and self._grid is not None:
            study.sampler = fix_params(self._grid[number - len(self._given)])
        else:
            study.sampler = fix_params(fixed) if config else build_sampler(self._strategy, number)
        trial = study.ask() if left is None else optuna.Trial(study, left._trial_id)
        assert trial.number == number, "one driver asks for one trial after the other"
        self._live[number] = trial
        if config is None:
            return Trial(number, self._space.draw(lambda name, domain: _suggest(trial, name, domain)))
        base = self._space.base_values
        given = {path: value for path, value in config.flat().items() if path not in base or base[path] != value}
        trial.set_user_attr("origin", origin)
        trial.set_user_attr("given", given)
        for name in fixed:
            _suggest(trial, name, self._space.domains[name])
        return Trial(number, {**given, **fixed}, protected=True)

    def _lesson(self, trial: optuna.Trial, outcome: Outcome) -> tuple[TrialState, float | None]:
        if outcome.state is Status.FAILED:
            return TrialState.FAIL, None
        if outcome.state in (Status.PRUNED, Status.STALLED):
            if not self._study.optuna.get_trials(deepcopy=False)[trial.number].intermediate_values:
                trial.report(self._worst() if outcome.score is None else outcome.score, 0)
            return TrialState.PRUNED, None
        assert outcome.state is Status.COMPLETE or outcome.state in DIVERGED, outcome.state
        for verdict in DIVERGED:  # the same keys on every trial: a sampler may demand it
            trial.set_constraint(verdict.lower(), 1.0 if outcome.state is verdict else 0.0)
        if outcome.state is Status.COMPLETE:
            assert outcome.score is not None, "a complete trial has a finite score"
            return TrialState.COMPLETE, outcome.score
        return TrialState.COMPLETE, self._worst()

    def _worst(self) -> float:
        """The worst score of a complete trial so far: a made-up large value would distort the sampler."""
        complete = [record for record in self._study.records() if record.state is Status.COMPLETE]
        return max((record.score for record in complete if record.score is not None), default=NO_SKILL)


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    if domain.choice is not None:
        return from_journal(trial.suggest_categorical(name, [to_journal(option) for option in domain.choice]))
    low, high = domain.bounds
    if domain.integers is not None:
        return trial.suggest_int(name, int(low), int(high), log=domain.log)
    return trial.suggest_float(name, low, high, log=domain.log)

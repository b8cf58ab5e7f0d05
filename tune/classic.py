"""Optuna's own samplers, by one word of YAML."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler
from optuna.trial import FrozenTrial

from tune.domain import Domain, Value, from_journal, to_journal
from tune.space import Space, Strategy
from tune.views import QuickTpe, distribution_of


def seed_of(strategy: Strategy, number: int) -> int:
    """The seed of what is proposed as trial `number`: with it a proposal is a function of the journal, and nothing
    has to be saved."""
    digest = hashlib.sha256(f"{strategy.seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def build_sampler(strategy: Strategy, number: int) -> BaseSampler:
    """The sampler that proposes trial `number`."""
    seed, startup = seed_of(strategy, number), strategy.startup_trials
    assert strategy.sampler != "grid", "a grid is enumerated"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if strategy.sampler == "random":
            return RandomSampler(seed=seed)
        if strategy.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        if strategy.sampler == "cmaes":
            # most trials are stopped at a milestone: what they scored there is most of what there is to learn from
            return CmaEsSampler(
                seed=seed, n_startup_trials=startup, consider_pruned_trials=True, warn_independent_sampling=False
            )
        return QuickTpe(seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True)


class Given(BaseSampler):
    """Proposes the values that it was given, and by chance what is missing among them: a driver that was killed while
    it wrote a trial down may have left values under which another name is active."""

    def __init__(self, params: Mapping[str, Value], seed: int) -> None:
        self._params = params
        self._chance = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        if param_name not in self._params:
            return self._chance.sample_independent(study, trial, param_name, param_distribution)
        return to_journal(self._params[param_name])


def suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    """What the study's sampler says, written to the journal; a value that stands there already stays."""
    return from_journal(trial._suggest(name, distribution_of(domain)))


def proposed_again(study: optuna.Study, left: FrozenTrial, sampler: BaseSampler, space: Space) -> dict[str, Value]:
    """What the sampler proposed, or was about to, for a trial that a kill left with some of its values."""
    before = _Before(study, left.number)
    blank = before.blank(left)
    relative = sampler.sample_relative(before, blank, sampler.infer_relative_search_space(before, blank))

    def again(name: str, domain: Domain) -> Value:
        distribution = distribution_of(domain)
        if distribution.single():
            return domain.ends[0]
        if name in relative:
            return from_journal(relative[name])
        return from_journal(sampler.sample_independent(before, blank, name, distribution))

    return space.draw(again)


class _Before(optuna.Study):
    """A study as it was before one of its trials had any values: those would take part in what is proposed for it."""

    def __init__(self, study: optuna.Study, number: int) -> None:
        self.__dict__.update(study.__dict__)
        self._number = number

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache=False)
        return [self.blank(trial) if trial.number == self._number else trial for trial in trials]

    @staticmethod
    def blank(trial: FrozenTrial) -> FrozenTrial:
        return FrozenTrial(trial.number, trial.state, None, None, None, {}, {}, {}, {}, {}, trial._trial_id)

"""Optuna's own samplers, by one word of YAML."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from tune.domain import Domain, Value, from_journal, to_journal
from tune.space import Strategy
from tune.views import distribution_of


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
            return GPSampler(seed=seed, n_startup_trials=startup)
        if strategy.sampler == "cmaes":
            # most trials are stopped at a milestone: what they scored there is most of what there is to learn from
            return CmaEsSampler(
                seed=seed, n_startup_trials=startup, consider_pruned_trials=True, warn_independent_sampling=False
            )
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True)


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

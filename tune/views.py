"""What TPE is shown: observations of our choice in place of a study's trials.

Stock TPE reads every trial of a study: its time grows with their number, and eighty children of one prefix count as
eighty observations of it. Here it reads a list that holds each thing once, the best, the latest and those that
diverged.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune.domain import Domain, Value, from_journal, to_journal
from tune.space import Suggest

BEST, LATEST, DIVERGED, RUNNING = 100, 200, 100, 100
"""how many observations of each sort are shown"""


def distribution_of(domain: Domain) -> BaseDistribution:
    """The domain in Optuna's words."""
    if domain.choice is not None:
        return CategoricalDistribution([to_journal(option) for option in domain.choice])
    if domain.integers is not None:
        return IntDistribution(*domain.integers, log=domain.log)
    low, high = domain.bounds
    return FloatDistribution(low, high, log=domain.log)


class _Observation(FrozenTrial):
    """What Optuna calls a trial, with its values as numbers: a sampler asks for them with every proposal."""

    @cached_property
    def internal(self) -> dict[str, float]:
        return {name: self.distributions[name].to_internal_repr(value) for name, value in self.params.items()}


class Shelf:
    """Observations of one kind of thing, each under its own id; a later word on the same id replaces the earlier."""

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self._distributions = {name: distribution_of(domain) for name, domain in domains.items()}
        self._entries: dict[Hashable, FrozenTrial] = {}
        # in the order in which they came there
        self._ended: dict[Hashable, None] = {}
        self._diverged: dict[Hashable, None] = {}
        self._running: dict[Hashable, None] = {}
        self._ranked: list[tuple[float, int]] = []
        self._by_number: dict[int, Hashable] = {}
        self._seen: list[FrozenTrial] | None = None
        self._tpe: Tpe | None = None

    def complete(self, id: Hashable, number: int, params: Mapping[str, Value], value: float) -> None:
        """It came to its end with `value`; lower is better."""
        self._put(id, self._trial(number, params, TrialState.COMPLETE, value=value))
        insort(self._ranked, (value, number))

    def stopped(self, id: Hashable, number: int, params: Mapping[str, Value], step: int, value: float) -> None:
        """It was stopped with `value` at `step`: worse than all that came further."""
        self._put(id, self._trial(number, params, TrialState.PRUNED, steps={step: value}))

    def diverged(self, id: Hashable, number: int, params: Mapping[str, Value]) -> None:
        """It is not feasible."""
        self._put(id, self._trial(number, params, TrialState.COMPLETE, value=0.0, violation=1.0))
        self._diverged[id] = None

    def running(self, id: Hashable, number: int, params: Mapping[str, Value]) -> None:
        """Its end is not known: others had better be proposed elsewhere. Anything known of the id stays."""
        if id not in self._entries:
            self._put(id, self._trial(number, params, TrialState.RUNNING))

    def drop(self, id: Hashable) -> None:
        """Nothing was learned of it after all."""
        self._remove(id)
        self._ended.pop(id, None)

    def seen(self) -> list[FrozenTrial]:
        """What a sampler is shown, by number: the same list until something is put on the shelf, or taken from it."""
        if self._seen is None:
            self._seen = self._chosen()
        return self._seen

    def suggest(self, seed: int, *, startup: int) -> Suggest:
        """What TPE proposes after these observations, chance while there are fewer than `startup`."""
        if self._tpe is None:
            self._tpe = Tpe(self.seen(), startup)
        return self._tpe.suggest(seed)

    def _chosen(self) -> list[FrozenTrial]:
        ids = [self._by_number[number] for _, number in self._ranked[:BEST]]
        for kind, count in ((self._ended, LATEST), (self._diverged, DIVERGED), (self._running, RUNNING)):
            ids += islice(reversed(kind), count)
        return sorted((self._entries[id] for id in dict.fromkeys(ids)), key=lambda entry: entry.number)

    def _put(self, id: Hashable, entry: FrozenTrial) -> None:
        self._remove(id)
        self._entries[id] = entry
        self._by_number[entry.number] = id
        kind = self._running if entry.state is TrialState.RUNNING else self._ended
        kind[id] = None

    def _remove(self, id: Hashable) -> None:
        """Take it from everywhere but its place among those that ended."""
        self._seen = self._tpe = None
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        self._by_number.pop(entry.number, None)
        self._running.pop(id, None)
        self._diverged.pop(id, None)
        if entry.state is TrialState.COMPLETE and not entry.constraints:
            item = (entry.value or 0.0, entry.number)
            del self._ranked[bisect_left(self._ranked, item)]

    def _trial(
        self,
        number: int,
        params: Mapping[str, Value],
        state: TrialState,
        *,
        value: float | None = None,
        steps: Mapping[int, float] | None = None,
        violation: float | None = None,
    ) -> FrozenTrial:
        known = {name: to_journal(value) for name, value in params.items() if name in self._distributions}
        return _Observation(
            number=number,
            state=state,
            value=value,
            datetime_start=None,
            datetime_complete=None,
            params=known,
            distributions={name: self._distributions[name] for name in known},
            user_attrs={},
            system_attrs={} if violation is None else {"constraints": [violation]},
            intermediate_values=dict(steps or {}),
            trial_id=number,
        )


class Tpe:
    """TPE after given observations, for as many proposals as are wanted: what it works out of them is kept."""

    def __init__(self, seen: list[FrozenTrial], startup: int) -> None:
        """
        Args:
            startup: observations before anything but chance proposes.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._sampler = QuickTpe(n_startup_trials=startup, multivariate=True, group=True, constant_liar=True)
        self._study: Any = _View(seen)
        number = max((trial.number for trial in seen), default=-1) + 1
        self._asking: Any = FrozenTrial(number, TrialState.RUNNING, None, None, None, {}, {}, {}, {}, {}, number)
        # which names there are together is all that matters: the first of each kind says it
        kinds: dict[Any, FrozenTrial] = {}
        for trial in seen:
            kinds.setdefault((trial.state, frozenset(trial.params)), trial)
        together: Any = _View([*kinds.values()])
        self._together = self._sampler.infer_relative_search_space(together, self._asking)

    def suggest(self, seed: int) -> Suggest:
        """Gives the values of one proposal, a function of the seed; the one before it gives nothing afterwards."""
        self._sampler.reseed(seed)
        relative = self._sampler.sample_relative(self._study, self._asking, self._together)

        def suggest(name: str, domain: Domain) -> Value:
            if name in relative:
                return from_journal(relative[name])
            independent = self._sampler.sample_independent(self._study, self._asking, name, distribution_of(domain))
            return from_journal(independent)

        return suggest


class QuickTpe(TPESampler):
    """TPE while the observations stay as they are, the same in less time: what it does anew for every proposal, and
    for every group of names, is done once. A test holds it against the original."""

    _split: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._estimators: dict[tuple[str, ...], list[Any]] = {}

    def reseed(self, seed: int) -> None:
        """Go on as one that was made with this seed."""
        self._rng, self._random_sampler = LazyRandomState(seed), RandomSampler(seed=seed)

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(study.directions) > 1:
            return super()._sample(study, trial, search_space)
        if self._split is None:
            states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            trials = [
                other for other in study._get_trials(deepcopy=False, states=states) if other.number != trial.number
            ]
            ended = sum(other.state is not TrialState.RUNNING for other in trials)
            self._split = _split_trials(study, trials, default_gamma(ended))
        names = tuple(search_space)
        if names not in self._estimators:
            self._estimators[names] = [
                self._build_parzen_estimator(study, search_space, part, handle_below=is_good)
                for part, is_good in zip(self._split, (True, False), strict=True)
            ]
        good, bad = self._estimators[names]
        candidates = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(candidates, self._compute_acquisition_func(candidates, good, bad))
        return {name: kind.to_external_repr(best[name]) for name, kind in search_space.items()}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: optuna.Study
    ) -> dict[str, NDArray[Any]]:
        names = search_space.keys()
        if not all(isinstance(trial, _Observation) for trial in trials):
            return super()._get_internal_repr(trials, search_space, study)
        rows = [trial.internal for trial in trials if isinstance(trial, _Observation)]
        rows = [row for row in rows if names <= row.keys()]
        return {name: np.asarray([row[name] for row in rows]) for name in names}


class _View(optuna.Study):
    """A study of nothing but the given trials."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self._seen = trials
        self._study_id = 0
        self._directions = [StudyDirection.MINIMIZE]
        self._storage: Any = _NoStorage()

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]


class _NoStorage:
    """TPE tells other processes what it is about to propose; here there are none."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        return None

"""Ask and tell: trials are proposed, and what is learned from their outcomes.

What Optuna is told decides what it learns. A trial that raised would be FAIL, which TPE ignores: on a space with a
cliff it then proposes exploding trials for ever. So every verdict on a config is COMPLETE with a violated constraint.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState

from tune.classic import Given, build_sampler, proposed_again, seed_of, suggest
from tune.domain import Value, from_journal
from tune.levels import levels_of
from tune.objectives import NOISE
from tune.pbt import REPLACED_BY, REPLACES, Population
from tune.stage_tree import Branch, StageTree
from tune.study import OpenStudy, TrialRecord
from tune.trial import DIVERGED, Outcome, Trial
from ups.config import RunConfig
from ups.core.types import Status

NO_SKILL = 1.0
"""score of a constant prediction: stands in for the worst complete score until there is one"""
_NOWHERE = -1
"""step of what was stopped before it arrived at any milestone itself: it is told with a score, and is on no rung"""
LOOK_SECONDS = 1.0
"""after which a driver of a shared study looks again at what the others did"""
_PARTS = (
    *("score", "reason", "milestones", "seconds", "parameters", "metrics"),
    *("reused_stages", "stage_seconds", "reused_seconds"),
)
"""of an outcome, kept beside what Optuna keeps of it"""


class Proposer:
    """The ask-and-tell side of a study. Order: the base, on further seeds for the noise floor, `start_from`, then
    what the sampler or the grid says."""

    def __init__(self, study: OpenStudy) -> None:
        self._study = study
        self._config = study.plan.config
        self._strategy = self._config.strategy
        self._space = study.plan.space
        self._metrics = [objective.metric for objective in self._config.objectives]
        self._to_resume = deque(study.unfinished())
        self._live: dict[int, optuna.Trial] = {}
        self._given = _given(study)
        self._grid: list[dict[str, Value]] | None = None
        self._tree: StageTree | None = None
        if self._strategy.sampler == "grid":
            self._grid = self._space.combinations_besides([config for _, config in self._given])
        elif self._strategy.sampler == "stage_tree" and len(self._metrics) == 1:
            self._tree = StageTree(
                self._space,
                levels_of(self._space),
                startup=self._strategy.startup_trials,
                nominal_costs=self._strategy.batch is not None,
            )
        self.population: Population | None = None
        """with pbt alone"""
        if self._strategy.scheduler == "pbt":
            self.population = Population(self._space, self._strategy, len(self._given))
            for trial in study.optuna.get_trials(deepcopy=False):
                if trial.state.is_finished():
                    self.population.restore(trial)
        self._started: set[int] = set()
        self._unended: dict[int, dict[str, Value]] = {}
        self._worst: dict[str, float] = {}
        self._asked = len(study.optuna.get_trials(deepcopy=False))
        self._looked = time.monotonic()
        self.sync()

    @property
    def asked(self) -> int:
        """Number of trials that the study has, in whatever state."""
        if self._study.is_shared:
            self._asked = len(self._study.optuna.get_trials(deepcopy=False))
        return self._asked

    def arrivals(self) -> Iterator[tuple[int, int, float, float]]:
        """(trial, milestone index, score, weights) of every milestone that was ever reported."""
        for trial in self._study.optuna.get_trials(deepcopy=False):
            for index, score in trial.intermediate_values.items():
                if index == _NOWHERE:
                    continue
                yield trial.number, index, score, trial.user_attrs.get("weights", 0.0)

    def sync(self) -> None:
        """Learn what the study's storage has and this process has not seen: all of it on a resume, later what other
        drivers did. Events are taken in the order in which they happened."""
        events: list[tuple[datetime, bool, FrozenTrial]] = []
        for trial in self._study.optuna.get_trials(deepcopy=False):
            is_known = trial.state.is_finished() or self._is_whole(trial)
            if trial.number not in self._started and trial.datetime_start is not None and trial.params and is_known:
                events.append((trial.datetime_start, False, trial))
            ends = trial.number not in self._started or trial.number in self._unended
            if ends and trial.number not in self._live and trial.datetime_complete is not None:
                events.append((trial.datetime_complete, True, trial))
        for _, ends, trial in sorted(events, key=lambda event: (event[0], event[1], event[2].number)):
            if not ends:
                params = {name: from_journal(value) for name, value in trial.params.items()}
                self._learn_start(trial.number, params, trial.user_attrs)
            elif "state" in trial.user_attrs:
                self._learn_end(trial.number, outcome_of(trial))

    def next(self, seconds_left: float | None = None) -> Trial | None:
        """The next trial: one that an earlier driver left unfinished, or a new one; None when all were asked, when
        there is no further combination, or when none is expected to end in `seconds_left`."""
        if self._study.is_shared and time.monotonic() - self._looked > LOOK_SECONDS:
            # a search that waits for others asks often
            self._looked = time.monotonic()
            self._to_resume.extend(self._study.unfinished())
            self.sync()
        if self._to_resume:
            return self._take_up(self._to_resume.popleft())
        return self._ask(seconds_left)

    @property
    def may_come_back(self) -> bool:
        """Whether trials that others work on may still have to be taken up here."""
        return self._study.is_shared and self._study.others_work()

    def note_weights(self, number: int, parameters: int) -> None:
        """Write down the size of a running trial, where that is an objective: its milestones are judged by it."""
        self._live[number].set_user_attr("weights", parameters)

    def report(self, number: int, index: int, score: float) -> None:
        """Write down that a trial reached a milestone."""
        if self._study.is_shared and not self._study.holds(number):
            return
        # not `Trial.report`, which refuses to serve several objectives
        self._study.optuna._storage.set_trial_intermediate_value(self._live[number]._trial_id, index, score)

    def tell(self, number: int, outcome: Outcome) -> TrialRecord | None:
        """Close a trial: its record in the journal, its lesson to the sampler, its line in `trials.jsonl`; None for
        one that another driver has taken over, which took this one for dead."""
        trial = self._live.pop(number)
        if self._study.is_shared and not self._study.holds(number):
            return None
        parts = {name: getattr(outcome, name) for name in _PARTS}
        parts = {name: dict(value) if hasattr(value, "items") else value for name, value in parts.items()}
        trial.set_user_attr("state", str(outcome.state))
        for name, value in parts.items():
            trial.set_user_attr(name, list(value) if isinstance(value, tuple) else value)
        copy = self.population.end(number, outcome.state) if self.population is not None else None
        if copy is not None:
            trial.set_user_attr(REPLACED_BY, copy.to_json())
        state, lesson = self._lesson(trial, outcome)
        # one is built for every proposal; whichever was the last has nothing to do with this trial
        self._study.optuna.sampler = Given({}, 0)
        self._study.optuna.tell(trial, lesson, state=state)
        self._learn_end(number, outcome)
        return self._study.note_ended(number)

    def _ask(self, seconds_left: float | None) -> Trial | None:
        while (number := self.asked) < self._strategy.trials:
            plan = self._plan(number, seconds_left)
            if plan is None:
                return None
            self._study.optuna.sampler = Given({}, 0)
            trial = self._study.ask(number)
            if trial is not None:
                self._asked = number + 1
                return self._start(trial, *plan)
            self.sync()  # another driver was faster: what it asked for is known before the next proposal
        return None

    def _take_up(self, left: FrozenTrial) -> Trial:
        """A trial that was left; the parameters that the journal has of it stay as they are."""
        known = {name: from_journal(value) for name, value in left.params.items()}
        plan: tuple[str, RunConfig | None, Branch | None] | None = None
        if REPLACES in left.user_attrs:
            plan = self._copy_plan(left.user_attrs[REPLACES])
        elif left.number < len(self._given) or not self._is_whole(left):
            plan = self._plan(left.number, None)
        if plan == ("sampled", None, None):
            sampler = build_sampler(self._strategy, left.number)
            params = proposed_again(self._study.optuna, left, sampler, self._space)
            plan = "sampled", None, Branch(params, None, None, "")
        trial = optuna.Trial(self._study.optuna, left._trial_id)
        return self._start(trial, *(plan or ("sampled", None, Branch(known, None, None, ""))))

    def _is_whole(self, trial: FrozenTrial) -> bool:
        """Whether every value of the trial was written before its driver was killed."""
        return self._has_all({name: from_journal(value) for name, value in trial.params.items()})

    def _has_all(self, params: Mapping[str, Value]) -> bool:
        """Whether there is a value for every active name."""
        try:
            self._space.draw(lambda name, domain: params[name])
        except KeyError:
            return False
        return True

    def _plan(self, number: int, seconds_left: float | None) -> tuple[str, RunConfig | None, Branch | None] | None:
        """(origin, given config, branch) of trial `number`; None where there is nothing to propose."""
        if number < len(self._given):
            return (*self._given[number], None)
        if self.population is not None:
            for replaced in self.population.pending:
                return self._copy_plan(replaced)
            if not self.population.needs_founder:
                return None
        if self._grid is not None:
            return "sampled", None, Branch(self._grid[number - len(self._given)], None, None, "")
        if self._tree is None:
            return "sampled", None, None
        branch = self._tree.propose(number, seed=seed_of(self._strategy, number), seconds_left=seconds_left)
        return None if branch is None else ("sampled", None, branch)

    def _copy_plan(self, replaced: int) -> tuple[str, RunConfig, None]:
        assert self.population is not None, "only pbt copies trials"
        copy = self.population.pending[replaced]
        return f"copy of trial {copy.parent}", self._space.config_of(copy.params), None

    def _start(self, trial: optuna.Trial, origin: str, config: RunConfig | None, branch: Branch | None) -> Trial:
        study, number = self._study.optuna, trial.number
        self._live[number] = trial
        if config is not None:
            return self._start_given(trial, origin, config)
        if branch is None:
            study.sampler = build_sampler(self._strategy, number)
        else:
            study.sampler = Given(branch.params, seed_of(self._strategy, number))
            if branch.below is not None:
                trial.set_user_attr("below", branch.below)
                trial.set_user_attr("shares", branch.stage)
        trial = self._live[number] = optuna.Trial(study, trial._trial_id)
        params = self._space.draw(lambda name, domain: suggest(trial, name, domain))
        self._learn_start(number, params, {})
        if self.population is not None:
            self.population.start(number, params)
        return Trial(number, params)

    def _start_given(self, trial: optuna.Trial, origin: str, config: RunConfig) -> Trial:
        base = self._space.base_values
        given = {path: value for path, value in config.flat().items() if path not in base or base[path] != value}
        replaces = self._note_copy(trial) if trial.number >= len(self._given) else None
        trial.set_user_attr("origin", origin)
        trial.set_user_attr("given", given)
        # a further seed of the base says nothing of the space
        params = {} if origin == NOISE else self._space.params_of(config)
        self._study.optuna.sampler = Given(params, 0)
        trial = self._live[trial.number] = optuna.Trial(self._study.optuna, trial._trial_id)
        for name in params:
            suggest(trial, name, self._space.domains[name])
        self._learn_start(trial.number, params, {"given": given})
        whole = {**given, **params}
        if self.population is not None:
            self.population.start(trial.number, whole, replaces)
        return Trial(trial.number, whole, protected=replaces is None)

    def _note_copy(self, trial: optuna.Trial) -> int:
        """Write down, before anything else of a copy, whose place it takes: a search that is killed meanwhile knows
        by that what the rest of it is."""
        assert self.population is not None, "only pbt copies trials"
        pending = self.population.pending
        replaces: int = trial.user_attrs.get(REPLACES, next(iter(pending), -1))
        trial.set_user_attr(REPLACES, replaces)
        trial.set_user_attr("below", pending[replaces].parent)
        return replaces

    def _learn_start(self, number: int, params: dict[str, Value], attributes: dict[str, Any]) -> None:
        """A trial whose config the space cannot express has no place in the tree."""
        if number in self._started:
            return
        self._started.add(number)
        outside = set(attributes.get("given", ())) - set(params)
        if self._tree is not None and params and not outside and self._has_all(params):
            self._unended[number] = params
            self._tree.start(number, params)
        else:
            self._unended[number] = {}

    def _learn_end(self, number: int, outcome: Outcome) -> None:
        params = self._unended.pop(number, None)
        feasible = all(excess <= 0 for excess in self._config.violations(outcome.metrics).values())
        if outcome.state is Status.COMPLETE:
            for metric, value in self._values(outcome).items():
                self._worst[metric] = max(value, self._worst.get(metric, value))
        if self._tree is not None and params:
            self._tree.end(number, params, outcome, feasible=feasible)

    def _values(self, outcome: Outcome) -> dict[str, float]:
        """Metric -> value of a complete trial, for every objective."""
        assert outcome.score is not None, "a complete trial has a finite score"
        measured = {**outcome.metrics, "rollout_nrmse": outcome.score}
        return {metric: measured.get(metric, math.inf) for metric in self._metrics}

    def _lesson(self, trial: optuna.Trial, outcome: Outcome) -> tuple[TrialState, list[float] | None]:
        number = trial.number
        is_noise = number < len(self._given) and self._given[number][0] == NOISE
        if outcome.state is Status.FAILED or is_noise:
            # a further seed of the base has no values of the space: told as COMPLETE it would leave the samplers that
            # search what all trials have in common with nothing
            return TrialState.FAIL, None
        # a driver that was killed while it told the trial may have written what is true no more
        for name in self._study.optuna.get_trials(deepcopy=False)[trial.number].constraints:
            self._constrain(trial, name, 0.0)
        single = len(self._metrics) == 1
        if outcome.state in (Status.PRUNED, Status.STALLED) and single:
            if not self._study.trial(trial.number).intermediate_values:
                score = self._worst_of("rollout_nrmse") if outcome.score is None else outcome.score
                # not `Trial.report`, which wants a step of its own counting
                self._study.optuna._storage.set_trial_intermediate_value(trial._trial_id, _NOWHERE, score)
            return TrialState.PRUNED, None
        # of several objectives the later ones are not known of a trial that was stopped: it counts as their worst
        stopped = outcome.state in (Status.PRUNED, Status.STALLED)
        assert stopped or outcome.state is Status.COMPLETE or outcome.state in DIVERGED, outcome.state
        for verdict in DIVERGED:  # the same keys on every trial: a sampler may demand it
            self._constrain(trial, verdict.lower(), 1.0 if outcome.state is verdict else 0.0)
        for name, excess in self._config.violations(outcome.metrics).items():
            self._constrain(trial, f"limit {name}", excess)
        if outcome.state is Status.COMPLETE:
            return TrialState.COMPLETE, list(self._values(outcome).values())
        return TrialState.COMPLETE, [self._worst_of(metric) for metric in self._metrics]

    def _constrain(self, trial: optuna.Trial, name: str, excess: float) -> None:
        # not `Trial.set_constraint`, which leaves what is there
        self._study.optuna._storage.set_trial_system_attr(trial._trial_id, f"{_CONSTRAINTS_KEY}:{name}", excess)

    def _worst_of(self, metric: str) -> float:
        """The worst value of a complete trial so far: a made-up large one would distort the sampler."""
        return self._worst.get(metric, NO_SKILL)


def _given(study: OpenStudy) -> list[tuple[str, RunConfig]]:
    """(origin, config) of the trials before the sampler's."""
    base = study.plan.base
    seeds = range(base.runtime.seed + 1, base.runtime.seed + study.plan.config.strategy.base_seeds)
    given = [("base", base), *((NOISE, base.override({"runtime.seed": seed})) for seed in seeds)]
    return [*given, *zip(study.plan.config.start_from, study.plan.start_from, strict=True)]


def outcome_of(trial: FrozenTrial) -> Outcome:
    """The outcome that `Proposer.tell` wrote down."""
    known = {name: trial.user_attrs[name] for name in _PARTS if name in trial.user_attrs}
    return Outcome(
        **{
            **known,
            "state": Status(trial.user_attrs["state"]),
            "reused_stages": tuple(known.get("reused_stages", ())),
        }
    )

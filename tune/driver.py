"""The side of a search that decides: which trial is next, who is stopped, what an end means. Knows nothing of Ray."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tune.sampler import Proposer
from tune.scheduler import MilestoneAsha, Verdict
from tune.study import OpenStudy, TrialRecord, best_of
from tune.trial import Outcome, Trial, milestone_key, stages_of
from ups.config import RunConfig
from ups.core.errors import ConfigError
from ups.core.types import Status

INFEASIBLE_IN_A_ROW = 100
"""so many refused proposals after each other, and the search gives up instead of asking on"""

LOST_IN_A_ROW = 3
"""so many trials after each other whose processes died for good, and the search ends: no worker can run here"""

Check = Callable[[RunConfig], int | None]
"""number of weights of a config's model; raises ConfigError when the model does not fit the data"""


@dataclass
class Running:
    """A trial on its way."""

    trial: Trial
    parameters: int | None
    stage: str = ""
    share: float = 0.0
    score: float | None = None
    seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)
    milestones: dict[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    is_lost: bool = False
    stages: tuple[str, ...] = ()
    """that it goes through, in their order"""

    @property
    def reused(self) -> tuple[str, ...]:
        """Stages that it has passed without a word: a stage that is found in the store reports nothing."""
        passed = self.stages[: self.stages.index(self.stage)] if self.stage in self.stages else ()
        return tuple(stage for stage in passed if not any(key.startswith(f"{stage}:") for key in self.milestones))


@dataclass(frozen=True)
class Snapshot:
    """What a person who looks at a search wants to know."""

    wanted: int
    states: Mapping[Status, int]
    running: tuple[Running, ...]
    best: TrialRecord | None
    base: TrialRecord | None
    elapsed_seconds: float
    left_seconds: float | None

    @property
    def ended(self) -> int:
        return sum(self.states.values())


class View(Protocol):
    """Whatever shows a search; `progress` comes often, `ended` once for every trial."""

    def progress(self, snapshot: Snapshot) -> None: ...

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None: ...


class NoView:
    """Shows nothing."""

    def progress(self, snapshot: Snapshot) -> None:
        return None

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None:
        return None


class Driver:
    """The state of a running search; every method is called from one thread."""

    def __init__(
        self, study: OpenStudy, *, check: Check, concurrency: int, time_budget: float | None, view: View
    ) -> None:
        strategy = study.plan.config.strategy
        self._space = study.plan.space
        self._wanted = strategy.trials
        self._check = check
        self._concurrency = concurrency
        self._view = view
        self._proposer = Proposer(study)
        self._prunes = strategy.scheduler == "milestone_asha"
        self.rungs = MilestoneAsha(strategy.milestones, strategy.keep)
        self._passed: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for number, index, score in self._proposer.arrivals():
            self.rungs.record(number, index, score)
            self._passed[number][self.rungs.milestones[index].key] = score
        self.records: dict[int, TrialRecord] = {
            record.number: record for record in study.records() if record.state is not Status.RUNNING
        }
        self.running: dict[int, Running] = {}
        self.stop_reason: str | None = None
        self._infeasible = 0
        self._lost = 0
        self._start = time.monotonic()
        self._spent: list[float] = []
        self._deadline = None if time_budget is None else self._start + time_budget

    def stop(self, reason: str) -> None:
        """Ask for the end: nothing new is started, and what runs is left for `--resume`."""
        self.stop_reason = self.stop_reason or reason

    def should_stop(self) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop("the time budget is spent")
        return self.stop_reason is not None

    def next(self) -> Trial | None:
        """The next trial to run, or None when there is none; an infeasible proposal ends here, at no cost."""
        while not self.should_stop():
            trial = self._proposer.next()
            if trial is None:
                return None
            try:
                config = self._space.config_of(trial.params)
                parameters = self._check(config)
            except ConfigError as error:
                self._infeasible += 1
                self.running[trial.number] = Running(trial, None)
                self.end(trial.number, Outcome(Status.INFEASIBLE, reason=str(error)))
                if self._infeasible >= INFEASIBLE_IN_A_ROW:
                    self.stop(f"the last {self._infeasible} proposals were infeasible, such as: {error}")
                continue
            self._infeasible = 0
            self.running[trial.number] = Running(
                trial, parameters, milestones=dict(self._passed[trial.number]), stages=stages_of(config)
            )
            return trial
        return None

    def progress(self, number: int, report: Mapping[str, Any]) -> bool:
        """Take in a report of a running trial; True stops it."""
        running = self.running[number]
        running.stage, running.share, running.seconds = report["stage"], report["share"], report["seconds"]
        score = report.get("score")
        if score is not None:
            running.score = score
            self._arrive(running, score)
        self._view.progress(self.snapshot())
        return self.is_stopped(number)

    def is_stopped(self, number: int) -> bool:
        verdict = self.running[number].verdict
        return verdict is not None and verdict.stop

    def end(self, number: int, outcome: Outcome) -> TrialRecord:
        """Close a trial."""
        running = self.running.pop(number)
        record = self._proposer.tell(number, outcome)
        self._lost = self._lost + 1 if outcome.state is Status.FAILED and running.is_lost else 0
        if self._lost >= LOST_IN_A_ROW:
            self.stop(f"the workers of the last {self._lost} trials died for good")
        self.records[number] = record
        if outcome.state is not Status.INFEASIBLE:
            # a first trial also waits for its worker to start, which no later one does
            self._spent.append(outcome.seconds or time.monotonic() - running.since)
        self._view.ended(record, self.snapshot())
        return record

    def pruned(self, number: int) -> Outcome:
        """The outcome of a trial that `progress` stopped."""
        running = self.running[number]
        assert running.verdict is not None
        finite = running.score is not None and math.isfinite(running.score)
        return Outcome(
            state=Status.PRUNED if finite else Status.NOT_FINITE,
            score=running.score if finite else None,
            reason=running.verdict.reason,
            milestones=running.milestones,
            seconds=running.seconds,
            parameters=running.parameters,
            reused_stages=running.reused,
        )

    def lost(self, number: int, reason: str) -> Outcome:
        """The outcome of a trial whose worker died for good."""
        running = self.running[number]
        running.is_lost = True
        return Outcome(
            Status.FAILED,
            reason=reason,
            milestones=running.milestones,
            seconds=running.seconds,
            parameters=running.parameters,
            reused_stages=running.reused,
        )

    def snapshot(self) -> Snapshot:
        records = list(self.records.values())
        base = self.records.get(0)
        return Snapshot(
            wanted=self._wanted,
            states=Counter(record.state for record in records),
            running=tuple(self.running.values()),
            best=best_of(records),
            base=base if base is not None and base.state is Status.COMPLETE else None,
            elapsed_seconds=time.monotonic() - self._start,
            left_seconds=self._left(len(records)),
        )

    def _arrive(self, running: Running, score: float) -> None:
        number = running.trial.number
        if math.isfinite(score):
            running.milestones[milestone_key(running.stage, running.share)] = score
        milestone = self.rungs.milestone(running.stage, running.share)
        if milestone is None:
            return
        if math.isfinite(score) and not self.rungs.is_judged(number, milestone.index):
            self._proposer.report(number, milestone.index, score)
        at_end = running.share >= 1.0 and running.stages[-1:] == (running.stage,)
        verdict = self.rungs.judge(number, milestone.index, score, protected=running.trial.protected, at_end=at_end)
        if self._prunes:
            running.verdict = verdict

    def _left(self, ended: int) -> float | None:
        """Mean time of a trial of this invocation times what is left, shared by the workers."""
        left = None
        if self._spent:
            left = sum(self._spent) / len(self._spent) * max(0, self._wanted - ended) / self._concurrency
        if self._deadline is not None:
            until = max(0.0, self._deadline - time.monotonic())
            left = until if left is None else min(left, until)
        return left

"""A search on recorded curves: some workers, a simulated clock, and a policy that says what is trained next.

What the policy decides is real; what a worker does is read from a table and takes the seconds that it took when it
was recorded. Nothing depends on the speed of the machine that replays, unless decisions are to take the time that they
take.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replay_table import LATENTS, StageRun

from ups.core.types import Status
from ups.training.stage_order import SEARCH


@dataclass(frozen=True)
class Ticket:
    """One trial."""

    name: Hashable
    path: tuple[int, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    """stage -> what it is called in a store; a stage without a name is trained by everyone who needs it"""


@dataclass
class Course:
    """How far a trial came."""

    milestones: dict[str, float] = field(default_factory=dict)
    """score at each validation, keyed `stage:share`, those of found stages included"""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """of each stage that the trial trained"""
    reused: list[str] = field(default_factory=list)
    status: Status = Status.COMPLETE
    score: float | None = None
    inference_ms: float | None = None


class Policy(Protocol):
    """A search."""

    def ask(self) -> Ticket | None:
        """The next trial; None while there is nothing to start."""
        ...

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        """One validation of a running trial, `seconds` into its stage; True stops the trial."""
        ...

    def stopped(self, ticket: Ticket) -> None:
        """The trial has given its worker back, as `report` asked."""
        ...

    def end(self, ticket: Ticket, course: Course) -> None:
        """The trial came to its own end, whatever its status."""
        ...


class Curves(Protocol):
    """What trials report."""

    @property
    def finals(self) -> Sequence[float]:
        """Scores at the end, the best first."""
        ...

    def run(self, path: tuple[int, ...]) -> list[StageRun]:
        """The stages of a run in their order, up to the one that did not complete."""
        ...


@dataclass
class Found:
    """What a search came to."""

    improvements: list[tuple[float, float]] = field(default_factory=list)
    """(core-seconds, best final score of a complete trial so far), at each improvement"""
    trials: Counter[str] = field(default_factory=Counter)
    """status -> number of ended trials"""
    diverged: list[bool] = field(default_factory=list)
    """of each ended trial in their order"""
    trained: Counter[str] = field(default_factory=Counter)
    """stage -> how often it was trained to its end"""
    trained_twice: int = 0
    """named stages that somebody else was training at the same moment"""
    core_seconds: float = 0.0
    """of all workers until the search ended, idle time included"""
    busy_seconds: float = 0.0
    idle_seconds: float = 0.0
    """of all workers: without a trial, or waiting for a decision"""


class Simulation:
    """Replays one search."""

    def __init__(
        self,
        policy: Policy,
        table: Curves,
        *,
        workers: int,
        budget: float,
        decision_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """
        Args:
            budget: core-seconds, those of an idle worker included.
            decision_seconds: what the policy has needed since this was asked before. One process decides everything,
                one thing after the other: so long all that have come to it wait.
        """
        self._policy, self._table = policy, table
        self._workers, self._budget = workers, budget
        self._decision_seconds = decision_seconds
        self._idle = workers
        self.clock = 0.0
        self.found = Found()
        self._finished: dict[str, StageRun] = {}
        self._in_training: Counter[str] = Counter()
        self._passed: dict[str, int] = {}
        """key -> validations that its checkpoint lies behind"""

    def run(self) -> Found:
        """Until the budget is spent, the policy has nothing more, or the best run of the table was found."""
        goal = self._table.finals[0]
        order = itertools.count()
        events: list[tuple[float, int, Generator[float, None, None]]] = []
        while True:
            while self._idle and (ticket := self._policy.ask()) is not None:
                self._go_to(self.clock + self._decision_seconds())
                heapq.heappush(events, (self.clock, next(order), self._trial(ticket)))
                self._idle -= 1
            self._go_to(self.clock + self._decision_seconds())
            if not events or self._is_at(goal):
                break
            time, _, trial = heapq.heappop(events)
            if time * self._workers > self._budget:
                self._go_to(self._budget / self._workers)
                break
            self._go_to(max(self.clock, time))
            wait = next(trial, None)
            self._go_to(self.clock + self._decision_seconds())
            self.found.idle_seconds += self.clock - time
            if wait is None:
                self._idle += 1
            else:
                heapq.heappush(events, (self.clock + wait, next(order), trial))
        self.found.core_seconds = self.clock * self._workers
        return self.found

    def _go_to(self, time: float) -> None:
        self.found.idle_seconds += (time - self.clock) * self._idle
        self.clock = time

    def _is_at(self, goal: float) -> bool:
        return bool(self.found.improvements) and self.found.improvements[-1][1] <= goal

    def _trial(self, ticket: Ticket) -> Generator[float, None, None]:
        """Gives the seconds until it wants to go on."""
        course = Course()
        for stage in self._table.run(ticket.path):
            key = ticket.keys.get(stage.stage)
            if key is not None and key in self._finished:
                course.reused.append(stage.stage)
            else:
                stopped = yield from self._train(ticket, stage, key, course)
                if stopped:
                    return
            course.milestones |= {f"{stage.stage}:{mark.share:g}": mark.score for mark in stage.marks}
            course.status, course.inference_ms = stage.status, stage.inference_ms
            course.score = stage.marks[-1].score if stage.marks else course.score
        self._note(str(course.status))
        if course.status is Status.COMPLETE:
            assert course.score is not None
            if not self.found.improvements or course.score < self.found.improvements[-1][1]:
                self.found.improvements.append((self.clock * self._workers, course.score))
        self._policy.end(ticket, course)

    def _train(self, ticket: Ticket, stage: StageRun, key: str | None, course: Course) -> Generator[float, None, bool]:
        """Whether the trial was stopped on the way."""
        if key is not None:
            self.found.trained_twice += self._in_training[key] > 0
            self._in_training[key] += 1
        lead = spent = yield from self._encode(ticket, stage)
        stopped = False
        # who comes after one that was stopped goes on from its checkpoint; what that one reported is not said again
        passed = self._passed.get(key, 0) if key is not None else 0
        for mark in stage.marks[:passed]:
            course.milestones[f"{stage.stage}:{mark.share:g}"] = mark.score
            spent = mark.seconds + lead
        for mark in stage.marks[passed:]:
            course.stage_seconds[stage.stage] = mark.seconds + lead
            yield from self._work(mark.seconds + lead - spent)
            spent = mark.seconds + lead
            stops = self._policy.report(ticket, stage.stage, mark.share, mark.score, spent)
            # at the end of the last stage, where ASHA stops whoever has reached `max_t`, nothing is left to stop
            if stops and stage.stage != SEARCH:
                self._note(str(Status.PRUNED))
                self._policy.stopped(ticket)
                stopped = True
                break
        if not stopped:
            yield from self._work(max(0.0, stage.seconds + lead - spent))
            course.stage_seconds[stage.stage] = stage.seconds + lead
            self.found.trained[stage.stage] += 1
        if key is not None:
            self._passed[key] = sum(mark.seconds + lead <= spent for mark in stage.marks)
            self._in_training[key] -= 1
            if not stopped:
                self._finished[key] = stage
        return stopped

    def _encode(self, ticket: Ticket, stage: StageRun) -> Generator[float, None, float]:
        """Seconds spent on what the stage trains on: none where another trial on the same operator has encoded it.

        Two that need it at the same moment both pay, which is more than a store asks for.
        """
        operator = ticket.keys.get("operator")
        name = None if operator is None else f"{LATENTS} {operator}"
        if not stage.latents_seconds or name in self._finished:
            return 0.0
        yield from self._work(stage.latents_seconds)
        if name is not None:
            self._finished[name] = stage
        return stage.latents_seconds

    def _work(self, seconds: float) -> Generator[float, None, None]:
        self.found.busy_seconds += seconds
        yield seconds

    def _note(self, status: str) -> None:
        self.found.trials[status] += 1
        self.found.diverged.append(status in (Status.EXPLODED, Status.NOT_FINITE, Status.STALLED))

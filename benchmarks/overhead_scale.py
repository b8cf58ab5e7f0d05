"""What the search's decisions cost with 1,000 workers and 10,000 trials, on a simulated clock, and in memory.

The search is the real one, training is a recorded curve. One process decides everything: while it does, the clock
goes on by the CPU seconds that it takes, and every worker that needs a decision waits for its turn.
"""

from __future__ import annotations

import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path

import numpy as np
from overhead_memory import growth, resident_bytes
from pairs import Data
from recorded_landscape import Landscape
from replay_clock import Course, Simulation, Ticket
from replay_policies import StudyPolicy
from replay_table import Table
from stage_grid import read_table

from tune.checks import load_plan_from_space
from tune.fit import check_on
from tune.study import Plan
from ups.core.types import FieldSpec

SPEC = FieldSpec("burgers", (128,), 1, 1.0, 0.01, ("nu",))
"""of a task on which the models of the space are counted"""
SHORTEST_SECONDS = 120.0
"""that the first stage of every recorded run takes at least, if it comes to its end"""
KINDS = ("propose", "judge", "tell")
SAMPLES = 20
"""measurements of memory in one search"""


class TimedPolicy(StudyPolicy):
    """The project's own search, with the CPU seconds that its decisions take."""

    def __init__(self, plan: Plan, landscape: Landscape, workers: int, memory: Callable[[], float]) -> None:
        """
        Args:
            memory: bytes in use.
        """
        check = check_on(SPEC)
        check(plan.base)  # what the first model of a process takes is no decision's
        super().__init__(plan, landscape.path_of, workers=workers, reuse=True, check=check)
        self.by_kind: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.by_trial: defaultdict[int, float] = defaultdict(float)
        self.in_vain = 0.0
        """seconds of asking for a trial when there was none to start"""
        self.memory: list[tuple[int, float]] = []
        """(ended trials, bytes)"""
        self.idle: Callable[[], float] = lambda: 0.0
        """seconds of all workers so far, simulated"""
        self.last_new = (0.0, 0.0)
        """clock and idle seconds when a trial that nobody had waited with went to a worker for the last time: from then
        on no more are wanted, and a worker that is free stays so"""
        self._newest = -1
        self._weigh, self._every = memory, plan.config.strategy.trials // SAMPLES
        self._untaken = 0.0

    def ask(self) -> Ticket | None:
        begin = time.process_time()
        trial = self._driver.next()
        seconds = time.process_time() - begin
        self._untaken += seconds
        if trial is None:
            self.in_vain += seconds
            return None
        self._note("propose", trial.number, seconds)
        if trial.number > self._newest:
            self._newest, self.last_new = trial.number, (self.clock(), self.idle())
        return self._ticket(trial)

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        with self._timed("judge", ticket):
            return super().report(ticket, stage, share, score, seconds)

    def stopped(self, ticket: Ticket) -> None:
        with self._timed("tell", ticket):
            super().stopped(ticket)
        self._look()

    def end(self, ticket: Ticket, course: Course) -> None:
        with self._timed("tell", ticket):
            super().end(ticket, course)
        self._look()

    def taken(self) -> float:
        """Seconds of decisions since this was asked before."""
        seconds, self._untaken = self._untaken, 0.0
        return seconds

    @contextmanager
    def _timed(self, kind: str, ticket: Ticket) -> Iterator[None]:
        begin = time.process_time()
        yield
        seconds = time.process_time() - begin
        self._untaken += seconds
        assert isinstance(ticket.name, int)
        self._note(kind, ticket.name, seconds)

    def _note(self, kind: str, number: int, seconds: float) -> None:
        self.by_kind[kind].append(seconds)
        self.by_trial[number] += seconds

    def _look(self) -> None:
        ended = len(self._driver.records)
        if ended // self._every > len(self.memory):
            self.memory.append((ended, self._weigh()))


def simulate(table: Path, *, workers: int, trials: int, seed: int) -> Data:
    """One search of the space `burgers1d_small`, in which decisions take the time that they take."""
    cpu, begin = time.process_time(), time.perf_counter()
    with _search(table, workers, trials, seed, resident_bytes) as (policy, simulation):
        found = simulation.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - begin
    costs = [policy.by_trial[number] for number in sorted(policy.by_trial)]
    clock, idle = policy.last_new
    return {
        "workers": workers,
        "trials": len(costs),
        "ended": dict(found.trials),
        "trained": dict(found.trained),
        "clock_seconds": simulation.clock,
        "decision": {
            # what was asked in vain belongs to no trial, and was spent all the same
            "mean": (sum(costs) + policy.in_vain) / len(costs),
            "p95": float(np.percentile(costs, 95)),
            "last": float(np.mean(costs[-max(1, trials // 10) :])),
            "in_vain": policy.in_vain / len(costs),
        },
        "calls": {kind: _summary(seconds) for kind, seconds in policy.by_kind.items()},
        "idle_until_last_new": idle / (clock * workers),
        "idle": found.idle_seconds / (simulation.clock * workers),
        "busy_with_decisions": (sum(costs) + policy.in_vain) / simulation.clock,
        "memory": policy.memory,
        "growth_bytes": growth(policy.memory),
        "cpu_share": cpu / wall,
    }


def traced(table: Path, *, workers: int, trials: int, seed: int) -> Data:
    """Python's own account of the memory that a search of simulated trials keeps."""
    tracemalloc.start()
    try:
        with _search(table, workers, trials, seed, lambda: tracemalloc.get_traced_memory()[0]) as (policy, simulation):
            simulation.run()
    finally:
        tracemalloc.stop()
    return {"workers": workers, "trials": trials, "memory": policy.memory, "growth_bytes": growth(policy.memory)}


@contextmanager
def _search(
    table: Path, workers: int, trials: int, seed: int, memory: Callable[[], float]
) -> Iterator[tuple[TimedPolicy, Simulation]]:
    changes = {"strategy.trials": trials, "strategy.seed": seed, "resources.concurrency": workers}
    plan = load_plan_from_space("burgers1d_small", changes=changes)
    landscape = Landscape(plan.space, Table(read_table(table), 0), shortest=SHORTEST_SECONDS)
    with TimedPolicy(plan, landscape, workers, memory) as policy:
        simulation = Simulation(policy, landscape, workers=workers, budget=inf, decision_seconds=policy.taken)
        policy.clock = lambda: simulation.clock
        policy.idle = lambda: simulation.found.idle_seconds
        yield policy, simulation


def _summary(seconds: Sequence[float]) -> Data:
    return {
        "calls": len(seconds),
        "mean": float(np.mean(seconds)),
        "p95": float(np.percentile(seconds, 95)),
        "max": max(seconds),
    }

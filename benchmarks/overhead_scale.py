"""What the search's decisions cost with 1,000 workers and 10,000 trials, on a simulated clock.

The search is the real one, training is a recorded curve. One process decides everything: while it does, the clock
goes on, and every worker that needs a decision waits for its turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from recorded_landscape import Landscape
from replay_clock import Course, Ticket
from replay_policies import StudyPolicy

from tune.study import Plan
from ups.config import RunConfig
from ups.core.types import FieldSpec
from ups.run import count_parameters

SPEC = FieldSpec("burgers", (128,), 1, 1.0, 0.01, ("nu",))
"""of a task with which the base's models are built to be counted"""


class TimedPolicy(StudyPolicy):
    """The project's own search, with what each of its decisions took."""

    def __init__(self, plan: Plan, landscape: Landscape, workers: int) -> None:
        super().__init__(plan, landscape.path_of, workers=workers, reuse=True, check=_count)
        self.seconds: dict[str, list[float]] = {"propose": [], "judge": [], "tell": []}
        self._untaken = 0.0

    def ask(self) -> Ticket | None:
        with self._timed("propose"):
            trial = self._driver.next()
        return None if trial is None else self._ticket(trial)

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        with self._timed("judge"):
            return super().report(ticket, stage, share, score, seconds)

    def stopped(self, ticket: Ticket) -> None:
        with self._timed("tell"):
            super().stopped(ticket)

    def end(self, ticket: Ticket, course: Course) -> None:
        with self._timed("tell"):
            super().end(ticket, course)

    def taken(self) -> float:
        seconds, self._untaken = self._untaken, 0.0
        return seconds

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        spent = time.process_time() - begin
        self.seconds[what].append(spent)
        self._untaken += spent


def _count(config: RunConfig) -> int:
    return count_parameters(config, SPEC)

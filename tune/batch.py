"""Deterministic mode: trials are proposed in batches, and nothing of a batch is learned before all of it has ended.

Which trial of a batch ends first then decides nothing: proposals and verdicts rest on the batches before, and the
same seed gives the same search. A batch is the trials number k * size to (k + 1) * size - 1, so that a resumed search
knows which one was open.
"""

from __future__ import annotations

from dataclasses import dataclass

from tune.running import Running
from tune.study import OpenStudy
from tune.trial import Outcome, milestone_key


@dataclass(frozen=True)
class SharedVerdict:
    """How a trial ended at a stage that others may share."""

    number: int
    stage: str
    outcome: Outcome

    def holds_for(self, running: Running, key: str) -> bool:
        """Whether a trial that needs the stage of that key would end there as well."""
        # nobody is stopped at its own end
        reaches_its_end = running.stages[-1:] == (self.stage,) and milestone_key(self.stage, 1.0) in (
            self.outcome.milestones
        )
        return key in running.keys.values() and not running.trial.protected and not reaches_its_end


class Batch:
    """The open batch."""

    def __init__(self, size: int, asked: int, study: OpenStudy) -> None:
        self._size = size
        open_numbers = [
            trial.number for trial in study.optuna.get_trials(deepcopy=False) if not trial.state.is_finished()
        ]
        self._index = min(open_numbers, default=asked) // size
        # those that were told before a kill are members that have ended
        told = range(self._index * size, asked)
        self._started = {number for number in told if number not in open_numbers}
        self._ended: dict[int, Outcome | None] = dict.fromkeys(self._started)
        self.verdicts: dict[str, SharedVerdict] = {}
        """key of a stage -> the verdict of the batch on it"""

    @property
    def is_full(self) -> bool:
        return len(self._started) >= self._size

    @property
    def is_begun(self) -> bool:
        return bool(self._started)

    def is_closed(self, number: int) -> bool:
        """Whether the trial is of an earlier batch."""
        return number < self._index * self._size

    def is_over(self, last: bool) -> bool:
        """Whether all of the batch have ended; the last one of a search need not be full."""
        return self.is_begun and len(self._ended) == len(self._started) and (self.is_full or last)

    def start(self, number: int) -> None:
        self._started.add(number)

    def end(self, number: int, outcome: Outcome) -> None:
        self._ended[number] = outcome

    def take(self) -> list[tuple[int, Outcome]]:
        """The outcomes that were not told, by number; the next batch is the open one afterwards."""
        outcomes = [(number, outcome) for number, outcome in sorted(self._ended.items()) if outcome is not None]
        self._index += 1
        self._started, self._ended, self.verdicts = set(), {}, {}
        return outcomes

"""What is known of a search while it runs: its trials on their way, a snapshot of it, and who looks at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tune.objectives import Reference
from tune.scheduler import GO_ON, Verdict
from tune.study import TrialRecord
from tune.trial import Trial
from ups.core.types import Status


@dataclass
class Running:
    """A trial on its way."""

    trial: Trial
    parameters: int | None
    stage: str = ""
    share: float = 0.0
    epoch: int = 0
    score: float | None = None
    since: float | None = None
    """when it went to a worker; None of one that never did"""
    milestones: dict[str, float] = field(default_factory=dict)
    verdict: Verdict = GO_ON
    is_lost: bool = False
    stages: tuple[str, ...] = ()
    """that it goes through, in their order"""
    keys: Mapping[str, str] = field(default_factory=dict)
    """what the stages that it trains are called in the store"""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """of the stages that have reported"""
    found: Mapping[str, float] = field(default_factory=dict)
    """stages that it has found in the store -> seconds that they took whoever trained them"""
    not_before: float = 0.0
    """a trial that waits for another driver's stage asks again at this time"""

    @property
    def reused(self) -> tuple[str, ...]:
        """Stages that it has passed without a word: a stage that is found in the store reports nothing."""
        return tuple(stage for stage in self.passed if not any(key.startswith(f"{stage}:") for key in self.milestones))

    @property
    def passed(self) -> tuple[str, ...]:
        """Stages that lie behind it."""
        return self.stages[: self.stages.index(self.stage)] if self.stage in self.stages else ()

    @property
    def seconds(self) -> float:
        return sum(self.stage_seconds.values())

    @property
    def at(self) -> tuple[str, float | None]:
        """The stage that it is at and its share of that, None where nothing was heard of the stage yet.

        A stage that has come to its end is followed by the next, and the last one by what a run ends with.
        """
        if self.stage not in self.stages:
            return self.stage or "starting", self.share if self.stage else None
        if self.share < 1.0:
            return self.stage, self.share
        later = self.stages[self.stages.index(self.stage) + 1 :]
        return (later[0] if later else "ending"), None


@dataclass
class Account:
    """What trials cost that have ended, and what they did not have to pay for."""

    spent_seconds: float = 0.0
    saved_seconds: float = 0.0
    """that reused stages took whoever trained them"""
    reused: Counter[str] = field(default_factory=Counter)
    """stage -> how often it was found in the store"""
    unpriced: int = 0
    """reused stages of which nobody wrote down what they took: they are not part of `saved_seconds`"""

    def add(self, record: TrialRecord) -> None:
        self.spent_seconds += record.seconds
        self.saved_seconds += sum(record.reused_seconds.values())
        self.reused.update({*record.reused_stages, *record.reused_seconds})
        self.unpriced += len({*record.reused_stages} - {*record.reused_seconds})


@dataclass(frozen=True)
class Snapshot:
    """What a person who looks at a search wants to know."""

    wanted: int
    states: Mapping[Status, int]
    running: tuple[Running, ...]
    waiting: int
    """trials that wait without a worker for a stage that another one trains"""
    slots: int
    """trials that may run at a time"""
    best: TrialRecord | None
    reference: Reference | None
    account: Account
    cores: int
    """of one trial"""
    now: float
    """in the time of `Running.since`"""
    elapsed_seconds: float
    left_seconds: float | None

    @property
    def ended(self) -> int:
        return sum(self.states.values())

    @property
    def spent_core_seconds(self) -> float:
        """Of training, by the trials that ended and those that run."""
        return (self.account.spent_seconds + sum(each.seconds for each in self.running)) * self.cores

    @property
    def saved_core_seconds(self) -> float:
        """What training the reused stages again would have cost, by the time they took whoever trained them, on the
        cores of one trial here."""
        found = sum(sum(each.found.values()) for each in self.running)
        return (self.account.saved_seconds + found) * self.cores

    @property
    def reused(self) -> Counter[str]:
        """Stage -> how often it was found in the store, by trials that ended and by those that run."""
        return self.account.reused + Counter(stage for each in self.running for stage in tuple(each.found))


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

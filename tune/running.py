"""What is known of a search while it runs: its trials on their way, a snapshot of it, and who looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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

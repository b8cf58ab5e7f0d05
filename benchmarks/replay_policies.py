"""Who decides in a replayed search: the project's own driver, or Ray Tune's searcher and scheduler.

Both are the real classes. Ray's are driven in the order in which `TuneController` of Ray 2.60 calls them: a result
goes to the scheduler first and to the searcher only if the trial goes on; a trial that is stopped, or returns, is
completed in the scheduler and then in the searcher with its last result; one that raised is `on_trial_error` and
`error=True`, which Optuna takes for FAIL.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, Self

from baseline import CLIPPED, GRACE_PERCENT, MAX_PERCENT, METRIC, REDUCTION_FACTOR, progress_percent
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from replay_clock import Course, Ticket
from replay_table import Table

from tune.driver import Check, Driver
from tune.running import NoView
from tune.study import OpenStudy, Plan
from tune.trial import Outcome, Trial
from ups.config import RunConfig
from ups.core.types import Status
from ups.training.keys import stage_keys

ENDLESS = 10**6


class StudyPolicy:
    """The project's own search: a study in a temporary folder and its driver."""

    def __init__(
        self,
        plan: Plan,
        path_of: Callable[[RunConfig], tuple[int, ...]],
        *,
        workers: int,
        reuse: bool,
        check: Check = lambda config: None,
    ) -> None:
        """
        Args:
            path_of: where the curves of a config are.
            reuse: trials share finished stages, as they do in a store.
        """
        self._path_of, self._space = path_of, plan.space
        self._keys: Callable[[RunConfig], Mapping[str, str]] = _table_keys if reuse else lambda config: {}
        self._temporary = tempfile.TemporaryDirectory(prefix="ups-replay-")
        self.folder = Path(self._temporary.name) / "study"
        self._study = OpenStudy(self.folder, plan, resume=False)
        self.clock: Callable[[], float] = lambda: 0.0
        self._driver = Driver(
            self._study,
            check=check,
            keys=self._keys,
            concurrency=workers,
            time_budget=None,
            view=NoView(),
            clock=lambda: self.clock(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._study.__exit__(kind, error, trace)
        self._temporary.cleanup()

    def ask(self) -> Ticket | None:
        trial = self._driver.next()
        return None if trial is None else self._ticket(trial)

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        report = {"stage": stage, "share": share, "score": score, "seconds": seconds}
        return self._driver.progress(_number(ticket), report)

    def stopped(self, ticket: Ticket) -> None:
        self._driver.end(_number(ticket), self._driver.pruned(_number(ticket)))

    def end(self, ticket: Ticket, course: Course) -> None:
        complete = course.status is Status.COMPLETE
        measured = {METRIC: course.score, "inference_ms": course.inference_ms}
        self._driver.end(
            _number(ticket),
            Outcome(
                course.status,
                score=course.score,
                reason="" if complete else "recorded so",
                milestones=course.milestones,
                seconds=sum(course.stage_seconds.values()),
                metrics={name: value for name, value in measured.items() if value is not None and complete},
                reused_stages=tuple(course.reused),
                stage_seconds=course.stage_seconds,
            ),
        )

    def _ticket(self, trial: Trial) -> Ticket:
        config = self._space.config_of(trial.params)
        return Ticket(trial.number, self._path_of(config), self._keys(config))


@dataclass(frozen=True)
class RaySettings:
    """How a search by Ray Tune is set up."""

    time_attr: Literal["training_iteration", "progress"] = "training_iteration"
    """training_iteration: reports so far, one for each validation; progress: percent of the whole trial"""
    max_t: float = 100
    grace_period: float = 1
    reduction_factor: float = 4
    clips: bool = False
    """a trial that diverged reports a bad score and returns; else it raises"""
    limited: bool = False
    """max_concurrent_trials is set; else one trial is always proposed before a worker is free for it"""
    starts_at: Mapping[str, Any] | None = None
    """the first trial"""


DOCUMENTED = RaySettings()
"""`OptunaSearch()` and `ASHAScheduler()` as they are"""
TUNED = RaySettings("progress", MAX_PERCENT, GRACE_PERCENT, REDUCTION_FACTOR, clips=True, limited=True)


class RayPolicy:
    """Ray Tune with OptunaSearch and ASHA."""

    def __init__(self, table: Table, settings: RaySettings, seed: int) -> None:
        self._table, self._settings = table, settings
        first = None if settings.starts_at is None else [dict(settings.starts_at)]
        self._searcher = OptunaSearch(seed=seed, points_to_evaluate=first)
        domains = {name: ray_tune.choice(values) for name, values in table.names.items()}
        assert self._searcher.set_search_properties(METRIC, "min", domains)
        self._scheduler = ASHAScheduler(
            time_attr=settings.time_attr,
            metric=METRIC,
            mode="min",
            max_t=settings.max_t,  # type: ignore[arg-type]  # it may be any number
            grace_period=settings.grace_period,  # type: ignore[arg-type]
            reduction_factor=settings.reduction_factor,
        )
        self._asked = 0
        self._waiting: list[Ticket] = []
        self._last: dict[Any, dict[str, Any]] = {}

    def ask(self) -> Ticket | None:
        if self._settings.limited:
            return self._propose()
        ticket = self._waiting.pop() if self._waiting else self._propose()
        self._waiting.append(self._propose())
        return ticket

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        trial = _trial(ticket)
        result = self._result(ticket, stage, share, score)
        stops = self._scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP  # type: ignore[arg-type]
        if not stops:
            self._searcher.on_trial_result(trial.trial_id, result)
        self._last[ticket.name] = result
        return stops

    def stopped(self, ticket: Ticket) -> None:
        self._complete(ticket)

    def end(self, ticket: Ticket, course: Course) -> None:
        diverged = course.status in (Status.EXPLODED, Status.NOT_FINITE)
        if diverged and not self._settings.clips:
            trial = _trial(ticket)
            self._scheduler.on_trial_error(None, trial)  # type: ignore[arg-type]
            self._searcher.on_trial_complete(trial.trial_id, error=True)
            self._last.pop(ticket.name, None)
            return
        if self._settings.clips and course.status is not Status.COMPLETE:
            last = self._last.get(ticket.name, {"training_iteration": 0, "progress": 0.0})
            number = last["training_iteration"] + 1
            self._last[ticket.name] = {**last, "training_iteration": number, METRIC: CLIPPED}
        self._complete(ticket)

    def _propose(self) -> Ticket:
        name = str(self._asked)
        self._asked += 1
        params = self._searcher.suggest(name)
        assert params is not None
        ticket = Ticket(name, self._table.path(params))
        self._scheduler.on_trial_add(None, _trial(ticket))  # type: ignore[arg-type]
        return ticket

    def _complete(self, ticket: Ticket) -> None:
        trial, last = _trial(ticket), self._last.pop(ticket.name, {})
        self._scheduler.on_trial_complete(None, trial, last)  # type: ignore[arg-type]
        self._searcher.on_trial_complete(trial.trial_id, result=last)

    def _result(self, ticket: Ticket, stage: str, share: float, score: float) -> dict[str, Any]:
        number = self._last.get(ticket.name, {}).get("training_iteration", 0) + 1
        return {"training_iteration": number, "progress": progress_percent(stage, share), METRIC: score}


def unlimited(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """The plan with other settings of its strategy, and no end of its own."""
    config = plan.config.override({"strategy.trials": ENDLESS, **changes})
    return Plan(config, plan.base, plan.start_from)


def _table_keys(config: RunConfig) -> Mapping[str, str]:
    return _keys_of(config)


@lru_cache(maxsize=64)
def _keys_of(config: RunConfig) -> Mapping[str, str]:
    return stage_keys(config, "table")


def _trial(ticket: Ticket) -> Any:
    """What Ray's classes read of a trial."""
    return SimpleNamespace(trial_id=str(ticket.name))


def _number(ticket: Ticket) -> int:
    assert isinstance(ticket.name, int)
    return ticket.name

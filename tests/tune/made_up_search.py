"""A search without Ray and without training: the real driver, made-up scores and costs, a clock of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from tune.driver import Driver
from tune.running import NoView, Running, View
from tune.scheduler import Milestone
from tune.study import OpenStudy, Plan, TrialRecord, record_of
from tune.trial import Outcome, Trial
from ups.config import RunConfig, stages_of
from ups.core.types import Status
from ups.training.keys import stage_keys

LR = "stages.operator.optimizer.lr"
EPOCHS = "stages.diff_residual.epochs"
RATE = "stages.diff_residual.optimizer.lr"
CANDIDATES = "ttc.candidates"
THREE: dict[str, Any] = {
    LR: {"float": [1e-4, 10.0], "log": True},
    EPOCHS: {"int": [0, 4]},
    RATE: {"float": [1e-5, 1e-1], "log": True, "when": {EPOCHS: "> 0"}},
    "ttc.enabled": {"choice": [False, True]},
    CANDIDATES: {"int": [2, 9], "when": {"ttc.enabled": True}},
}
"""of an operator, of a correction that may be off, of a search at test time that may be off"""
FINITE: dict[str, Any] = {
    "latent.tokens": {"choice": [16, 32]},
    EPOCHS: {"choice": [0, 2]},
    RATE: {"choice": [1e-3, 1e-2], "when": {EPOCHS: "> 0"}},
    "ttc.enabled": {"choice": [False, True]},
    CANDIDATES: {"int": [3, 4], "when": {"ttc.enabled": True}},
}
"""2 operators x 3 corrections x 3 searches at test time; the base is none of them"""
COMBINATIONS = 18
STAGED = {"operator": [0.25, 0.5, 1], "diff_residual": [0.5, 1]}

SHARES = {"operator": (0.25, 0.5, 0.75, 1.0), "diff_residual": (0.5, 1.0)}
COSTS = {"operator": 50.0, "diff_residual": 30.0, "consistency_distill": 15.0, "inference": 5.0}
"""seconds of a whole stage"""

Values = Mapping[str, Any]
Score = Callable[[Values, str], float | Status]
"""(paths of a config, stage) -> score at the end of the stage, or how the stage ends halfway"""
Pick = Callable[[int], int]
"""which of so many trials on their way goes on next"""


def keys_of(config: RunConfig) -> Mapping[str, str]:
    return stage_keys(config, "")


class MadeUpSearch:
    """A context manager around a study and its driver, whose trials walk made-up curves.

    A stage that some trial has finished is found by all others, which then report nothing of it.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        score: Score,
        *,
        workers: int = 2,
        resume: bool = False,
        pick: Pick | None = None,
        check: Callable[[RunConfig], int | None] = lambda config: 5,
        time_budget: float | None = None,
        view: View | None = None,
    ) -> None:
        """
        Args:
            pick: None is whoever is due first.
        """
        self.clock, self.spent = 0.0, 0.0
        self.plan, self._score, self._workers, self._pick = plan, score, workers, pick
        self.started: list[Trial] = []
        self._finished: dict[str, float] = {}
        """key of a stage -> its score"""
        self._stack = ExitStack()
        self.study = self._stack.enter_context(OpenStudy(folder, plan, resume=resume))
        self.driver = Driver(
            self.study,
            check=check,
            keys=keys_of,
            concurrency=workers,
            time_budget=time_budget,
            view=view or NoView(),
            clock=lambda: self.clock,
        )
        self._find()

    def __enter__(self) -> MadeUpSearch:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @property
    def records(self) -> list[TrialRecord]:
        return list(self.study.records())

    @property
    def best(self) -> float:
        """Score of the best complete trial so far."""
        best = self.driver.snapshot().best
        return math.inf if best is None or best.score is None else best.score

    def run(self, until: Callable[[], bool] = lambda: False) -> list[TrialRecord]:
        """Trials by number, when the driver has no more or `until` says so."""
        waiting: list[tuple[float, Generator[float, None, None]]] = []
        while not until():
            while len(waiting) < self._workers and (trial := self.driver.next()) is not None:
                self.started.append(trial)
                waiting.append((self.clock, self._walk(self.driver.running[trial.number])))
            if not waiting:
                break
            due = min(range(len(waiting)), key=lambda index: waiting[index][0])
            time, trial_walk = waiting.pop(due if self._pick is None else self._pick(len(waiting)))
            self.clock = max(self.clock, time)
            seconds = next(trial_walk, None)
            if seconds is not None:
                self.spent += seconds
                waiting.append((self.clock + seconds, trial_walk))
        return self.records

    def _find(self) -> None:
        """What an earlier search of the folder left in its store: all that lies above the last stage that a trial
        reported of."""
        for trial in self.study.optuna.get_trials(deepcopy=False):
            reported = {milestone.stage for milestone in self._milestones(trial)}
            reported |= set(trial.user_attrs.get("stage_seconds", {}))
            if not reported:
                continue
            config = self.plan.space.config_of(record_of(trial, True).params)
            values, stages = config.flat(), stages_of(config)
            is_complete = trial.user_attrs.get("state") == Status.COMPLETE and trial.state.is_finished()
            last = len(stages) if is_complete else max(map(stages.index, reported))
            for stage, key in keys_of(config).items():
                if stages.index(stage) < last:
                    end = self._score(values, stage)
                    assert not isinstance(end, Status), "it came to its end"
                    self._finished[key] = end

    def _milestones(self, trial: FrozenTrial) -> list[Milestone]:
        rungs = self.driver.rungs.milestones
        return [rungs[index] for index in trial.intermediate_values if index >= 0]

    def _walk(self, running: Running) -> Generator[float, None, None]:
        """Gives the seconds until the trial goes on."""
        number = running.trial.number
        values = self.plan.space.config_of(running.trial.params).flat()
        milestones: dict[str, float] = {}
        seconds: dict[str, float] = {}
        reused: list[str] = []
        found: dict[str, float] = {}
        state, latest = Status.COMPLETE, 1.0
        for stage in running.stages:
            key = running.keys.get(stage)
            if key is not None and key in self._finished:
                latest = milestones[f"{stage}:1"] = self._finished[key]
                reused.append(stage)
                found[stage] = COSTS[stage]
                continue
            end = self._score(values, stage)
            cost, before = COSTS[stage], 0.0
            for share in SHARES.get(stage, (1.0,)):
                yield cost * (share - before)
                seconds[stage], before = cost * share, share
                if isinstance(end, Status):
                    state = end
                    break
                latest = milestones[f"{stage}:{share:g}"] = end * (1 + 0.5 * (1 - share))
                report = {"stage": stage, "share": share, "seconds": seconds[stage], "score": latest, "found": found}
                if self.driver.progress(number, report):
                    self.driver.end(number, self.driver.pruned(number))
                    return
            if state is not Status.COMPLETE:
                break
            if key is not None:
                self._finished[key] = latest
        complete = state is Status.COMPLETE
        self.driver.end(
            number,
            Outcome(
                state,
                latest if complete else None,
                "" if complete else f"made up to be {state} at {stage}",
                milestones,
                seconds=sum(seconds.values()),
                metrics={"rollout_nrmse": latest, "inference_ms": values[CANDIDATES]} if complete else {},
                reused_stages=tuple(reused),
                stage_seconds=seconds,
                reused_seconds=found,
            ),
        )

"""One trial in a Ray worker: the only file that touches both Ray and `ups.run`."""

from __future__ import annotations

import fcntl
import math
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from ray import cloudpickle
from ray import tune as ray_tune

from tune.patience import StorageRefused, patiently
from tune.placement import Demand
from tune.space import Space
from tune.trial import Outcome, milestone_key, run_folder
from tune.verdict import drop_verdict, facts_of, read_verdict, verdict_place
from ups.config import RunConfig
from ups.core.errors import ConfigError, StageBusy
from ups.core.tracking import Shown, Tracker
from ups.core.types import Progress, Report, RunResult, Status
from ups.training.stage_results import found_stages

HEARTBEAT_SECONDS = 1.0
"""at most one report in this time besides those with a score: each costs a round trip to the driver"""
ORPHAN_SECONDS = 120.0
"""how long a worker whose driver was killed may take to notice it"""


class Trainer(Protocol):
    """`ups.run.train_run`, or something with its signature: a tabulated curve, a no-op to measure the overhead."""

    def __call__(
        self,
        config: RunConfig,
        out: Path,
        report: Report,
        *,
        resume: bool,
        evaluate_on: Literal["none"],
        store: Path | str,
        busy: Literal["raise"],
    ) -> RunResult: ...


class _TimedOut(Exception):
    """The trial has had its time."""


def trial_function(
    study: Path,
    store: Path | str,
    space: Space,
    trainer: Trainer | None,
    limit: float | None,
    workers: int,
    each: Demand,
    group: str,
) -> Callable[[dict], None]:
    """The function that Tune runs for every trial; its argument is `{"number": ..., "params": ..., "tracks": ...}`.

    Args:
        study: absolute path of the STUDY folder.
        store: folder, or URI, of finished stages, which all trials share.
        trainer: None is the real one.
        limit: seconds of training after which a trial is TIMED_OUT.
        workers: processes that the real trainer trains on; one is the trial's own.
        each: what one of them takes; its CPUs are torch's threads for configs that leave them open.
        group: what the study is called at wandb, where its trials are shown if the config says so and `tracks` is on.
    """

    directory = os.getcwd()

    def run_trial(request: dict[str, Any]) -> None:
        missing = next((place for place in (directory, study / "study.yaml") if not os.path.exists(place)), None)
        if missing is not None:
            # a node that came after all others were looked at; on it a run would end on its own disk
            said = f"{missing}: is not there on node {socket.gethostname()}; every node must share it"
            ray_tune.report({"refused": f"{said}, see `ups doctor`", "done": True})
            return
        os.chdir(directory)  # data files are relative to where the search was started
        number = request["number"]
        reporter = _Reporter(limit, run_folder(study, number), group if request["tracks"] else None)
        if request["tracks"]:
            drop_verdict(study, number)
        try:
            train = trainer or _real_trainer(workers, each)
            outcome = _outcome(study, store, space, train, reporter, number, request["params"])
        except StageBusy as busy:
            # whoever waits gives its worker back
            reporter.leave(f"waits for {busy.stage}, which another trial trains")
            ray_tune.report({"busy": busy.stage, **reporter.notes, "done": True})
            return
        except StorageRefused as refused:
            reporter.leave(str(refused))
            ray_tune.report({"refused": str(refused), **reporter.notes, "done": True})
            return
        except BaseException:  # Tune stops a trial in its report
            if request["tracks"]:
                reporter.stopped(read_verdict(study, number))
                drop_verdict(study, number)
            raise
        reporter.end(outcome)
        # `done` ends the trial with this very report; nothing of it is compared on any rung
        ray_tune.report({"outcome": outcome.to_json(), **reporter.notes, "done": True})

    packed = cloudpickle.dumps(run_trial)

    def unpack_and_run(request: dict[str, Any]) -> None:
        # Tune starts processes that it ends before they have a trial: torch is imported with the first one
        pickle.loads(packed)(request)

    return unpack_and_run


def _outcome(
    study: Path,
    store: Path | str,
    space: Space,
    train: Trainer,
    reporter: _Reporter,
    number: int,
    params: Mapping[str, Any],
) -> Outcome:
    """Train; whatever goes wrong is an outcome, except the stop of a trial, which Tune raises in `report`, StageBusy,
    and StorageRefused.

    What storage refuses for a while costs a trial what it has trained since its last checkpoint.
    """
    folder = run_folder(study, number)
    start = time.monotonic()

    def run() -> RunResult:
        with _alone(study / "runs" / f".{number:04d}.lock"):
            config = space.config_of(params)
            reporter.show(config, folder, number)
            return train(
                config, folder, reporter, resume=folder.exists(), evaluate_on="none", store=store, busy="raise"
            )

    try:
        return Outcome.of(patiently(run))
    except ConfigError as error:
        return Outcome(Status.INFEASIBLE, reason=str(error), seconds=time.monotonic() - start)
    except _TimedOut as error:
        return reporter.outcome(Status.TIMED_OUT, str(error))
    except (StageBusy, StorageRefused):
        raise
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "traceback.txt").write_text(traceback.format_exc())
        line = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {line} (traceback in runs/{folder.name}/traceback.txt)"
        found = reporter.found
        return Outcome(
            Status.FAILED,
            reason=reason,
            seconds=time.monotonic() - start,
            reused_stages=tuple(found),
            reused_seconds=found,
        )


class _Reporter:
    """Progress as flat metrics. Stage and share say how far the trial is: Tune's own iteration count starts anew with
    every restart."""

    def __init__(self, limit: float | None, run: Path, group: str | None = None) -> None:
        """
        Args:
            run: folder of the run.
            group: what the study is called at wandb; None shows nothing there.
        """
        self._last = float("-inf")
        self._run = run
        self.found: dict[str, float] = {}
        """stages that the run has found in the store -> seconds that they once took"""
        self._limit = limit
        self._group = group
        self._tracker: Tracker | None = None
        self._seconds: dict[str, float] = {}
        self._milestones: dict[str, float] = {}
        self._score: float | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self._seconds:
            # a stage that was found says nothing itself: it lies behind one that begins
            self.found = found_stages(self._run)
        if self._tracker is not None:
            self._tracker.report(progress)
        # of a stage: summed over restarts
        self._seconds[progress.stage] = progress.seconds
        if progress.score is not None and math.isfinite(progress.score):
            self._score = self._milestones[milestone_key(progress.stage, progress.share)] = float(progress.score)
        spent = sum(self._seconds.values())
        if self._limit is not None and spent > self._limit:
            where = f"{progress.share:.0%} of {progress.stage}"
            raise _TimedOut(f"trained for {spent:.0f} s, more than the {self._limit:.0f} s of a trial, at {where}")
        now = time.monotonic()
        if progress.score is None and now - self._last < HEARTBEAT_SECONDS:
            return
        self._last = now
        metrics: dict[str, Any] = {
            "stage": progress.stage,
            "share": progress.share,
            "seconds": progress.seconds,
            "epoch": progress.epoch,
            **self.notes,
        }
        if self.found:
            metrics["found"] = self.found
        if progress.score is not None:
            metrics["score"] = float(progress.score)
        ray_tune.report(metrics)

    @property
    def notes(self) -> dict[str, str]:
        """What the driver is told besides: why wandb is told no more."""
        failure = None if self._tracker is None else self._tracker.failure
        return {} if failure is None else {"untracked": failure}

    def show(self, config: RunConfig, folder: Path, number: int) -> None:
        """Show the trial at wandb, too, as its config says."""
        if self._tracker is None and self._group is not None:
            last_words = verdict_place(folder.parent.parent, number)
            content = config.model_dump(mode="json")
            shown = Shown(folder, f"trial {number}", "trial", content, self._group, last_words)
            self._tracker = Tracker(config.logging.wandb, shown)

    def end(self, outcome: Outcome) -> None:
        if self._tracker is None:
            return
        self._tracker.end(outcome.state, outcome.reason, facts_of(outcome))

    def leave(self, reason: str) -> None:
        """The trial goes on another time."""
        if self._tracker is not None and self._tracker.has_begun:
            self._tracker.end(Status.INTERRUPTED, reason)

    def stopped(self, verdict: Mapping[str, Any] | None) -> None:
        """The driver has stopped the trial, or all of them."""
        if verdict is None:
            self.leave("the search has ended")
        elif self._tracker is not None:
            self._tracker.end(Status(verdict["status"]), verdict["reason"], verdict)

    def outcome(self, state: Status, reason: str) -> Outcome:
        """Of a trial that is ended here."""
        seconds = sum(self._seconds.values())
        return Outcome(
            state,
            self._score,
            reason,
            milestones=self._milestones,
            seconds=seconds,
            reused_stages=tuple(self.found),
            stage_seconds=self._seconds,
            reused_seconds=self.found,
        )


def _real_trainer(workers: int, each: Demand) -> Trainer:
    if workers > 1:
        # imported by the trials that need it alone: it is slow to come
        from tune.distributed import Workers, train_distributed

        return partial(train_distributed, workers=Workers(workers, each))
    import torch

    from ups.run import train_run

    torch.set_num_threads(each.cpus)
    return train_run


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process trains in this run folder: one may outlive its killed driver for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as stream:
        deadline = time.monotonic() + ORPHAN_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path.stem}: another process still trains this trial") from None
                time.sleep(0.2)
        stream.write(str(os.getpid()))
        stream.flush()
        yield

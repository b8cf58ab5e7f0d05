"""A small study that faults are injected into: `ups search` as a process of its own, and what its files tell.

Training is deterministic and every trial is known before the search begins (a grid without early stopping), so that
whatever happens to the processes, the study has to come to the same trials with the same scores.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from raylets import Raylets

from tune.study import StudyFolder, load_study
from tune.trial import run_folder
from ups.config import RunConfig
from ups.core.types import Status
from ups.data.generators import generate
from ups.evaluation.runs import RESULT
from ups.run import train_run

T = TypeVar("T")

CODE = "import sys; from tune.cli import main; sys.exit(main())"
STEPS, INTERVAL = 480, 40
"""of training in a trial, and between two of its checkpoints"""
LRS, SIBLINGS = (0.01, 0.008, 0.006, 0.005, 0.004), ("auto", "none")
"""learning rates, each trained once; and what trials with the same one differ in, which costs no training"""
ROUNDING = 0.02
"""relative; several workers add up in another order than one, which a whole training amplifies"""
PATIENCE_SECONDS = 900.0
"""what never comes in this time is taken for lost"""
_BATCHES = 4
"""of an epoch"""

SPACE: dict[str, Any] = {
    "base": "base.yaml",
    "space": {
        "inference.corrector": {"choice": list(SIBLINGS)},
        "stages.operator.optimizer.lr": {"choice": list(LRS)},
    },
    "strategy": {"sampler": "grid", "scheduler": "none"},
}
TRIALS = len(LRS) * len(SIBLINGS)


def base_config(file: Path, steps: int) -> dict[str, Any]:
    """A config that trains for some seconds, with 24 trajectories of Burgers' equation."""
    return {
        "task": {"equation": "burgers", "files": [str(file)], "train": 16, "validation": 4, "test": 4},
        "latent": {"tokens": 8, "dim": 8},
        "encoder": {"width": 16, "blocks": 1, "kernel": 3},
        "operator": {"mixer": "spectral", "depth": 1, "hidden_dim": 16, "modes": 4},
        "decoder": {"kind": "grid", "width": 16, "blocks": 0, "kernel": 3, "cell_width": 4},
        "stages": {
            "operator": {
                "epochs": steps // _BATCHES,
                "windows_per_trajectory": 2,
                "batch_size": 8,
                "validations": 4,
                "losses": {"rollout": {"horizon": 2, "warmup": 0.5}},
                "optimizer": {"lr": LRS[0]},
            }
        },
        # every step is written down: that is how work that was done twice is found
        "logging": {"log_every_n_steps": 1, "checkpoint_every_n_epochs": INTERVAL // _BATCHES},
        "runtime": {"threads": 1},
    }


def make_data(file: Path) -> Path:
    """The trajectories that `base_config` asks for."""
    shape = {"trajectories": 24, "cells": 32, "frames": 9, "dt": 0.05}
    return generate("burgers", file, parameters={"nu": 0.01}, seed=3, oversample=2, **shape)


class Search:
    """The small study in `folder`, and the process that searches it now."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        *,
        trials: int = TRIALS,
        steps: int = STEPS,
        workers: int = 1,
        cluster: Raylets | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            folder: for the space and the study.
            data: file of `make_data`.
            steps: of a trial.
            workers: processes of each trial.
            cluster: None is a Ray of the search alone, for two workers.
            environment: added to this process's.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.study, self.cluster = folder, folder / "study", cluster
        self.trials, self.steps_of_a_trial, self.workers = trials, steps, workers
        inherited = os.environ if cluster is None else cluster.environment
        self.environment = {**inherited, **(environment or {}), "OMP_NUM_THREADS": "1"}
        (folder / "base.yaml").write_text(yaml.safe_dump(base_config(data, steps)))
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
        concurrency = ["--concurrency", "2" if workers == 1 else "1", "--workers-per-trial", str(workers)]
        place = [] if cluster is None else ["--address", cluster.address]
        self._options = ["--trials", str(trials), *concurrency, *place]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin the search, or go on with it."""
        resume = ["--resume"] if (self.study / "study.yaml").exists() else []
        with open(self.folder / "log.txt", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CODE, "search", "space.yaml", "--out", "study", *self._options, *resume],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the search was not started"
        return self._process

    def until(self, what: str, condition: Callable[[], T | None]) -> T:
        """What `condition` gives as soon as it is neither None nor False.

        Raises:
            RuntimeError: it never came, or the search ended before.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            code = self.process.poll()
            found = condition()
            if found is not None and found is not False:
                return found
            if code is not None or time.monotonic() > deadline:
                ended = "did not come in time" if code is None else f"did not come before the search ended ({code})"
                raise RuntimeError(f"{self.folder}: {what} {ended}: {self.said()[-2000:]}")
            time.sleep(0.02)

    def wait(self) -> int:
        """The exit code of the search, once it has ended."""
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.folder}: the search does not end: {self.said()[-2000:]}") from None

    def close(self) -> None:
        """End whatever still runs of the search."""
        if self._process is None:
            return
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """Of the search: its own, and those of its Ray; those that live."""
        return [process for process in psutil.process_iter() if _lives_in(process, self.process.pid)]

    def said(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    # ------------------------------------------------------------------ what the files tell

    def steps(self, number: int) -> list[int]:
        """Every step that was trained in a trial, in the order in which that was done."""
        return [
            line["step"] for line in _lines(run_folder(self.study, number) / "progress.jsonl") if not _is_score(line)
        ]

    def repeated(self, number: int) -> int:
        """How many steps of a trial were trained although they had been trained before, by itself or its sibling."""
        steps = self.steps(number)
        return len(steps) - (len(set(steps)) if number < len(LRS) else 0)

    def training(self) -> Iterator[tuple[int, int]]:
        """Trials on their way with the step they are at."""
        for number in range(self.trials):
            folder = run_folder(self.study, number)
            if folder.exists() and not (folder / RESULT).exists():
                steps = self.steps(number)
                if steps:
                    yield number, steps[-1]

    def amid(self) -> int:
        """A trial in the midst of its training, once there is one."""
        return self.until("a trial in the midst of its training", self.amid_now)

    def amid_now(self) -> int | None:
        """A trial that is behind some checkpoints, and far from its end."""
        window = range(2 * INTERVAL, 3 * self.steps_of_a_trial // 4)
        return next((number for number, step in self.training() if step in window and self._trains(number)), None)

    def _trains(self, number: int) -> bool:
        """Whether the process lives that trains a trial: the lock of a dead one stays behind."""
        return psutil.pid_exists(self.pid_of(number))

    def pid_of(self, number: int) -> int:
        """The process that trains a trial, or did."""
        return int((self.study / "runs" / f".{number:04d}.lock").read_text() or 0)

    def ended(self) -> list[int]:
        """Numbers of the trials that ended."""
        return [line["number"] for line in _lines(self.study / "trials.jsonl")]

    def verdict(self, undisturbed: Mapping[str, float]) -> Verdict:
        """What the study has come to, beside what `undisturbed_scores` gives."""
        return Verdict.of(load_study(self.study), self, undisturbed)


class Verdict:
    """Whether a study is what it would have been without any fault."""

    def __init__(self, wrong: Sequence[str], states: Mapping[str, int], repeated: Mapping[int, int]) -> None:
        self.wrong = tuple(wrong)
        """what differs from an undisturbed study, in words"""
        self.states = dict(states)
        self.repeated = dict(repeated)
        """steps that were trained more than once, of each trial of which any were"""

    @classmethod
    def of(cls, study: StudyFolder, search: Search, undisturbed: Mapping[str, float]) -> Verdict:
        """
        Args:
            study: read after its search has ended.
            search: the one that made it.
            undisturbed: score of every learning rate.
        """
        wrong = []
        numbers = [record.number for record in study.trials]
        if numbers != list(range(search.trials)):
            wrong.append(f"trials {numbers}, not {search.trials}")
        if (told := sorted(search.ended())) != numbers:
            wrong.append(f"ended {told}, not each trial once")
        for record in study.trials:
            if record.state is not Status.COMPLETE:
                wrong.append(f"trial {record.number} is {record.state}: {record.reason}")
                continue
            steps, reused = set(search.steps(record.number)), record.reused_stages == ("operator",)
            if record.number >= len(LRS) and not reused:
                # it may have gone on from its sibling's checkpoints
                steps.update(search.steps(record.number - len(LRS)))
            missing = set() if reused else set(range(1, search.steps_of_a_trial + 1)) - steps
            # a checkpoint is written before its step is: what dies in between goes on with the next one
            if (reused and steps) or any(step % INTERVAL for step in missing):
                wrong.append(f"trial {record.number} trained {len(steps)} different steps, reused {reused}")
            expected = undisturbed[str(study.config_of(record).stages.operator.optimizer.lr)]
            tolerance = ROUNDING * abs(expected) if search.workers > 1 else 0.0
            if record.score is None or not abs(record.score - expected) <= tolerance:
                wrong.append(f"trial {record.number} scored {record.score}, undisturbed {expected}")
        repeated = {number: count for number in range(search.trials) if (count := search.repeated(number))}
        return cls(wrong, Counter(str(record.state) for record in study.trials), repeated)


def undisturbed_scores(data: Path, steps: int = STEPS, trials: int = TRIALS) -> dict[str, float]:
    """Learning rate, as text, -> what its config comes to in one go and without a search."""
    found = {}
    for lr in LRS[:trials]:
        config = RunConfig.parse(base_config(data, steps)).override({"stages.operator.optimizer.lr": lr})
        with tempfile.TemporaryDirectory() as folder:
            result = train_run(config, Path(folder) / "run", evaluate_on="none")
        assert result.score is not None, result.reason
        found[str(lr)] = result.score
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that is being written; none of one that is not there."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _is_score(line: Mapping[str, Any]) -> bool:
    """A validation is a second report of its step."""
    return line["score"] is not None


def _lives_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False

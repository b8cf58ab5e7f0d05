"""A search whose driver is killed, and one that is interrupted: as processes of their own, with a Ray of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import json, os, sys, time
from pathlib import Path

from tune.search import run_search
from tune.space import SearchConfig
from tune.study import Plan
from ups.config import RunConfig
from ups.core.types import Progress, RunResult, Status

LR = "stages.operator.optimizer.lr"
IS_FIRST = "--resume" not in sys.argv


def train(config, out, report, *, resume, evaluate_on, store, busy):
    out.mkdir(parents=True, exist_ok=True)
    done = out / "done"
    start = int(done.read_text()) if done.exists() else 0
    with open(out / "starts", "a") as stream:
        stream.write(f"{start}\\n")
    number = int(out.name)
    # whatever is sampled: every third is behind all others, and is stopped as soon as enough have arrived
    score = abs(config.stages.operator.optimizer.lr - 0.01) + (number % 3 == 2)
    milestones = {}
    for k in range(1, 9):
        milestones[f"operator:{k / 8:g}"] = score
        if k > start:
            # the first driver finds no end: its two workers stay with these trials
            time.sleep(3600 if IS_FIRST and number >= 6 and k == 2 else 0.1)
            (out / "next").write_text(str(k))
            os.replace(out / "next", done)  # whole, whenever the process is killed
            report(Progress("operator", k, 8, k / 8, k, 0.0, 0.0, k, score))
    return RunResult(Status.COMPLETE, "", score, milestones, 8.0, 7, out)


if __name__ == "__main__":
    base = RunConfig.parse({"task": {"equation": "burgers", "files": ["a"], "train": 1, "validation": 1, "test": 1}})
    search = {
        "base": "base.yaml",
        "space": {LR: {"float": [1e-4, 1.0], "log": True}},
        "strategy": {"trials": 14, "milestones": {"operator": [0.25, 0.5, 1]}, "startup_trials": 4},
        "resources": {"concurrency": 2},
    }
    plan = Plan(SearchConfig.parse(search), base)
    summary = run_search(plan, Path(sys.argv[1]), trainer=train, resume="--resume" in sys.argv)
    print(json.dumps([record.to_json() for record in summary.records]))
    sys.exit(130 if summary.signalled else 0)
"""


@pytest.fixture
def start(tmp_path):
    """Gives a function that starts the script above, in a process group of its own as a terminal would."""
    (tmp_path / "script.py").write_text(SCRIPT)
    begun = []

    def start_(*arguments):
        begun.append(
            subprocess.Popen(
                [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "study"), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        return begun[-1]

    yield start_
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for_ended(study: Path, count: int, seconds: float = 300) -> list[int]:
    """Numbers of the trials that ended, as soon as there are so many."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        path = study / "trials.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return [json.loads(line)["number"] for line in lines]
        time.sleep(0.05)
    raise AssertionError(f"no {count} trials ended within {seconds} s")


def wait_for_checkpoint(study: Path, number: int, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not checkpoint(study, number):
        assert time.monotonic() < deadline, f"trial {number} has no checkpoint within {seconds} s"
        time.sleep(0.05)


def starts(study: Path, number: int) -> list[int]:
    """How far the trial was each time it was started."""
    path = study / "runs" / f"{number:04d}" / "starts"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def checkpoint(study: Path, number: int) -> int:
    """How far the trial has come."""
    path = study / "runs" / f"{number:04d}" / "done"
    return int(path.read_text() or 0) if path.exists() else 0


def of_ray(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_driver_is_resumed_without_running_anything_twice(start, tmp_path):
    study = tmp_path / "study"
    first = start()
    for number in (6, 7):
        wait_for_checkpoint(study, number)
    ended = wait_for_ended(study, 6)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {number: starts(study, number) for number in range(14)}
    left = {number: checkpoint(study, number) for number in before if before[number] and number not in ended}
    assert left == {6: 1, 7: 1}
    resumed = start("--resume")
    output, errors = resumed.communicate(timeout=600)
    assert (resumed.returncode, errors) == (0, "")
    records = json.loads(output)
    assert [record["number"] for record in records] == list(range(14))
    assert set(Counter(record["state"] for record in records)) <= {"COMPLETE", "PRUNED"}
    for number in ended:  # finished trials are not run again
        assert starts(study, number) == before[number]
    for number in range(14):  # unfinished ones go on from their last checkpoint, as the same trial
        if number in left:
            assert len(starts(study, number)) == 2
            assert starts(study, number)[1] >= left[number]
        else:
            assert len(starts(study, number)) == 1
    # the rungs hold every arrival of both lives: whoever was stopped was compared with all of them
    stopped = [record for record in records if record["state"] == "PRUNED"]
    assert stopped
    assert all("operator:" in record["reason"] for record in stopped)


def test_ctrl_c_ends_in_good_order(start, tmp_path):
    study = tmp_path / "study"
    process = start()
    wait_for_ended(study, 1)
    children = of_ray(process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (130, "")
    states = Counter(record["state"] for record in json.loads(output))
    assert states["INTERRUPTED"] > 0
    assert sum(states.values()) < 14
    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []

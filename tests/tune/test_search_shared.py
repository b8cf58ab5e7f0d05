"""Two searches of one study, as processes of their own with a Ray each, and a real PostgreSQL between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from tune.study import load_study
from ups.core.types import Status

TRIALS = 16
SCRIPT = """
import sys, time
from pathlib import Path

from tune import presence
from tune.search import run_search
from tune.study import Plan
from ups.core.errors import UserError
from ups.core.types import Progress, RunResult, Status

presence.BEAT_SECONDS, presence.DEAD_SECONDS = 0.3, 4.0


def train(config, out, report, **rest):
    out.mkdir(parents=True, exist_ok=True)
    while out.parts[-3] == "hangs" and int(out.name) >= 2:
        time.sleep(0.1)
    score = abs(config.stages.operator.optimizer.lr - 0.01)
    for k in range(1, 5):
        time.sleep(0.2)
        report(Progress("operator", k, 4, k / 4, k, 0.0, 0.0, k, score))
    return RunResult(Status.COMPLETE, "", score, {"operator:1": score}, 4.0, 7, out)


if __name__ == "__main__":
    try:
        summary = run_search(Plan.from_yaml(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), trainer=train)
    except UserError as error:
        sys.exit(str(error))
    sys.exit(130 if summary.signalled else 0)
"""


@pytest.fixture
def start(tmp_path, make_plan, postgres, request):
    """Starts a driver of the study of this test, in the folder that is named; none outlives the test."""
    (tmp_path / "script.py").write_text(SCRIPT)
    plan = make_plan(trials=TRIALS).kept_at(postgres.url, request.node.name)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    begun = []

    def start_(folder):
        command = [sys.executable, "script.py", "plan.yaml", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        begun.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment))
        return begun[-1]

    yield start_
    for process in begun:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def ended(folder):
    """Numbers of the trials that ended in this folder."""
    path = folder / "trials.jsonl"
    return [json.loads(line)["number"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_ended(folder, count, seconds=600):
    deadline = time.monotonic() + seconds
    while len(ended(folder)) < count:
        assert time.monotonic() < deadline, f"{folder}: no {count} trials ended within {seconds} s"
        time.sleep(0.05)


def finish(process):
    _, errors = process.communicate(timeout=900)
    assert (process.returncode, errors) == (0, "")


def test_two_drivers_search_one_study_to_exactly_the_trials_that_were_asked_for(start, tmp_path):
    drivers = [start("a"), start("b")]
    for driver in drivers:
        finish(driver)
    shares = [ended(tmp_path / folder) for folder in "ab"]
    assert sorted(shares[0] + shares[1]) == list(range(TRIALS))
    for folder in "ab":
        trials = load_study(tmp_path / folder).trials
        assert [trial.number for trial in trials] == list(range(TRIALS))
        assert {trial.state for trial in trials} <= {Status.COMPLETE, Status.PRUNED}
    assert Counter(trial.origin for trial in trials)["base"] == 1


def test_when_one_driver_is_killed_with_9_the_other_ends_its_trials(start, tmp_path):
    killed = start("hangs")
    wait_for_ended(tmp_path / "hangs", 2)
    heir = start("heir")
    wait_for_ended(tmp_path / "heir", 1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = [trial.number for trial in load_study(tmp_path / "heir").trials if trial.state is Status.RUNNING]
    assert left
    finish(heir)
    assert sorted(ended(tmp_path / "hangs")) == [0, 1]
    assert sorted(ended(tmp_path / "heir")) == list(range(2, TRIALS))
    assert {trial.state for trial in load_study(tmp_path / "heir").trials} <= {Status.COMPLETE, Status.PRUNED}


def test_a_search_goes_on_after_a_restart_of_the_server(start, postgres, tmp_path):
    driver = start("a")
    wait_for_ended(tmp_path / "a", 2)
    postgres.stop()
    postgres.start()
    finish(driver)
    assert sorted(ended(tmp_path / "a")) == list(range(TRIALS))

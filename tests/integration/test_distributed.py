"""Real worker groups of Ray Train: a run on two workers, one whose worker is killed, and trials of two workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.util import placement_group_table

from tune.cli import app
from tune.distributed import Workers, train_distributed
from ups.cli.terminal import run_app
from ups.config import RunConfig
from ups.core.types import Progress, Status
from ups.evaluation.runs import load_result

pytestmark = pytest.mark.usefixtures("ray_session")
LR = "stages.operator.optimizer.lr"


@pytest.fixture
def folder(tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base and its data as a relative path."""
    shutil.copy(tiny["task"]["files"][0], tmp_path / "data.h5")
    base = {**tiny, "task": {**tiny["task"], "files": ["data.h5"]}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ups(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments])


def assert_everything_is_given_back(root: Path) -> None:
    """Within five seconds (`benchmarks/give_back.py`: 0.4); and of the workers nothing is left beside the runs."""
    deadline = time.monotonic() + 5
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)
    assert list(root.rglob(".*.workers")) == []


def test_two_workers_come_to_what_one_comes_to(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ups("train", "base.yaml", "--out", "alone") == 0
    capfd.readouterr()
    assert ups("train", "base.yaml", "--workers", 2, "--out", "run") == 0
    shown = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in shown] == ["25.0%", "50.0%", "75.0%", "100.0%"]
    alone, run = load_result(folder / "alone"), load_result(folder / "run")
    assert run.milestones == pytest.approx(alone.milestones, rel=1e-3)
    reports = [json.loads((folder / name / "report.json").read_text())["metrics"] for name in ("run", "alone")]
    assert reports[0]["rollout_nrmse"] == pytest.approx(reports[1]["rollout_nrmse"], rel=1e-3)
    assert sorted(os.listdir(folder / "run")) == sorted(os.listdir(folder / "alone"))
    assert_everything_is_given_back(folder)
    # what a user has to mend is said before a worker is started, or by all of them at once
    assert ups("train", "base.yaml", "--workers", 2, "--out", "run") == 2
    assert ups("train", "base.yaml", "stages.operator.batch_size=1", "--workers", 2, "--out", "other") == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("ups: run: holds a run already")
    assert lines[1].startswith("ups: stages.operator.batch_size: a batch needs a sample for each worker, got 1 and 2")
    assert len(lines) == 2


def test_a_killed_worker_costs_what_came_after_its_checkpoint(folder: Path) -> None:
    config = RunConfig.parse(yaml.safe_load((folder / "base.yaml").read_text()))
    config = config.override({"stages.operator.epochs": 200, "logging.log_every_n_steps": 1})
    steps, killed = list[int](), list[int]()

    def kill_one(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.score is not None and progress.step >= 200 and not killed:
            killed.append(_pid_of_the_first(folder / "run"))
            os.kill(killed[0], signal.SIGKILL)

    # an earlier driver was killed, and its Ray with it
    (folder / ".run.workers").mkdir()
    (folder / ".run.workers" / "controller").write_text("controller-of-another-ray")
    result = train_distributed(config, folder / "run", kill_one, workers=Workers(2), resume=False, evaluate_on="none")
    assert result.status is Status.COMPLETE
    assert killed
    assert set(steps) == set(range(1, 801))
    validations, interval = 4, 20
    # a validation is a second report of its step
    assert len(steps) <= 800 + validations + interval + 1
    assert_everything_is_given_back(folder)


def _pid_of_the_first(run: Path) -> int:
    """It holds the lease on the stage that is trained."""
    (path,) = (run / "store" / "leases").glob("*/*")
    return json.loads(path.read_text().splitlines()[1])["pid"]


def test_a_trial_of_two_workers_that_is_stopped_gives_them_back(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {
        "base": "base.yaml",
        "space": {LR: {"choice": [1e-7]}},
        "strategy": {"trials": 2, "sampler": "grid", "keep": 0.5, "milestones": {"operator": [0.25, 1]}},
        "resources": {"concurrency": 1},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    limit = ("stages.operator.time_limit_seconds=8", "stages.operator.epochs=1000000")
    assert ups("search", "space.yaml", *limit, "--workers-per-trial", 2, "--out", "study", "--json") == 0
    summary = json.loads(capfd.readouterr().out)
    # the second had the CPUs of the first
    assert summary["states"] == {"COMPLETE": 1, "PRUNED": 1}
    assert_everything_is_given_back(folder)
    assert not (folder / "study" / "runs" / "0001" / "result.json").exists()


def test_a_trial_that_is_killed_while_its_workers_start_gives_back_what_they_were_to_have(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {
        "base": "base.yaml",
        "space": {LR: {"choice": [1e-3]}},
        "strategy": {"trials": 1, "sampler": "grid", "scheduler": "none"},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    before, killed = set(placement_group_table()), list[int]()

    def reserved() -> bool:
        """Whether the workers have a place: the trial itself has none with CPUs."""
        groups = [group for key, group in placement_group_table().items() if key not in before]
        return any(len(group["bundles"]) == 2 and group["state"] == "CREATED" for group in groups)

    def kill_when_reserved() -> None:
        deadline = time.monotonic() + 120
        while not reserved():
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        killed.append(int((folder / "study" / "runs" / ".0000.lock").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_when_reserved, daemon=True)
    thread.start()
    assert ups("search", "space.yaml", "--workers-per-trial", 2, "--out", "study", "--json") == 0
    thread.join()
    assert killed
    # nothing was trained by then, and there is no room for what was reserved beside a second group
    assert ray.cluster_resources()["CPU"] < 2 * 2
    assert json.loads(capfd.readouterr().out)["states"] == {"COMPLETE": 1}
    assert_everything_is_given_back(folder)

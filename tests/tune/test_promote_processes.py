"""Retraining in worker processes: side by side, and never longer than the promotion that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tune.retrain import Job, default_workers, retrain
from ups.config import RunConfig
from ups.core.runtime import write_atomic
from ups.core.types import RunResult, Status

TASK = {"equation": "burgers", "files": ["a.h5"], "train": 4, "validation": 2, "test": 2}
BASE = RunConfig.parse({"task": TASK, "runtime": {"threads": 1, "device": "cpu"}})


def jobs(folder, seeds):
    return [Job(BASE.override({"runtime.seed": seed}), folder / f"trial1-s{seed}", folder / "store") for seed in seeds]


def meet(config, folder, store):
    """Ends well only if another process is in here at the same time."""
    folder.mkdir()
    (folder / "here").touch()
    deadline = time.monotonic() + 120
    while len(list(folder.parent.glob("*/here"))) < 2:
        assert time.monotonic() < deadline, "nobody else came"
        time.sleep(0.05)
    return RunResult(Status.COMPLETE, "", float(config.runtime.seed), {}, float(os.getpid()), 1, folder)


def die(config, folder, store):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(config, folder, store):
    folder.mkdir()
    write_atomic(folder / "pid", str(os.getpid()).encode())
    time.sleep(600)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid, seconds=120):
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_alive(pid)


def test_two_at_a_time(tmp_path):
    found = {run.seed: run for _, run in retrain(jobs(tmp_path, (11, 12)), meet, workers=2)}
    assert {seed: run.score for seed, run in found.items()} == {11: 11.0, 12: 12.0}
    assert found[11].folder == "trial1-s11"
    pids = {int(run.seconds) for run in found.values()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(gone(pid) for pid in pids)


def test_killed_worker_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="was killed"):
        list(retrain(jobs(tmp_path, (1, 2)), die, workers=2))


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    code = (
        "import sys; from pathlib import Path; import test_promote_processes as t\n"
        "if __name__ == '__main__':\n"
        "    list(t.retrain(t.jobs(Path(sys.argv[1]), (1, 2)), t.wait_for_ever, workers=2))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    paths = os.pathsep.join((str(Path(__file__).parent), os.getcwd()))
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": paths})
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("*/pid"))) < 2:
            assert time.monotonic() < deadline, "the workers did not start"
            time.sleep(0.1)
        pids = [int(path.read_text()) for path in tmp_path.glob("*/pid")]
        assert all(is_alive(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
    assert all(gone(pid) for pid in pids)


def test_default_workers_share_the_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert default_workers(BASE) == 8
    assert default_workers(BASE.override({"runtime.threads": 4})) == 2
    assert default_workers(BASE.override({"runtime.threads": 16})) == 1

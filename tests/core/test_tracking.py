"""wandb: what is written offline, that no failure of it costs a run anything, and that nothing outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_files import pages

from ups.core import tracking
from ups.core.errors import ConfigError, UserError
from ups.core.tracking import Shown, Tracker, WandbConfig, check_installed, follow
from ups.core.types import Progress, RunResult, Status

OFFLINE = WandbConfig(mode="offline", project="tests")
Stub = Callable[[str], None]


def progress(stage: str = "operator", step: int = 1, score: float | None = None) -> Progress:
    return Progress(stage, step, 4, step / 4, step, 0.5, float("nan"), 1.0, score, {"forward": 0.25}, lr=2e-3)


def shown(folder: Path, **more) -> Shown:
    return Shown(folder, "a name", "trial", {"latent": {"tokens": 4}}, **more)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch) -> Stub:
    """Puts something else in the place of wandb: the body of its `init`."""

    def put(body: str) -> None:
        module = tmp_path / "stub" / "wandb"
        module.mkdir(parents=True)
        text = f"def Settings(**given): return None\ndef teardown(): pass\ndef init(**given):\n    {body}\n"
        (module / "__init__.py").write_text("import os, sys, time, types\n" + text)
        path = os.pathsep.join([str(module.parent), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    return put


@pytest.fixture(autouse=True)
def _patience(monkeypatch) -> None:
    """A busy machine takes longer for wandb than a run would wait."""
    monkeypatch.setattr(tracking, "START_SECONDS", 300.0)
    monkeypatch.setattr(tracking, "END_SECONDS", 120.0)
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 60.0)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: gone between opening and reading
        return False


def test_runs_of_one_process_are_pages_of_their_own(tmp_path: Path, capfd) -> None:
    helpers = set()
    for number in (1, 2):
        tracker = Tracker(OFFLINE, shown(tmp_path / str(number), group="a study"))
        for step in (1, 2):
            tracker.report(progress(step=step, score=0.5 / step))
        tracker.report(progress("diff_residual"))
        assert tracker._process is not None
        helpers |= {tracker._process.pid}
        tracker.log_file(Path(__file__), "a-file", "golden", {"number": number})
        tracker.end(Status.PRUNED, "behind", {"score": 0.25})
        assert tracker.failure is None
        assert tracker._process.returncode == 0
        (page,) = pages(tmp_path / str(number))
        assert (page.name, page.group, page.kind, page.project) == ("a name", "a study", "trial", "tests")
        assert page.config["latent"] == {"tokens": 4}
        # every stage over its own steps
        assert page.steps["operator/*"] == "operator/step"
        assert page.steps["diff_residual/*"] == "diff_residual/step"
        assert [row.get("operator/step") for row in page.history] == [1, 2, None]
        assert [row.get("operator/rollout_nrmse") for row in page.history] == [0.5, 0.25, None]
        assert page.history[0]["operator/train_loss"] == 0.5
        assert page.history[0]["operator/forward"] == 0.25
        assert page.history[0]["operator/lr"] == 2e-3
        assert (page.summary["status"], page.summary["reason"], page.summary["score"]) == ("PRUNED", "behind", 0.25)
        assert page.artifacts == [("a-file", "golden")]
        assert page.code == 0
    assert len(helpers) == 2
    assert capfd.readouterr() == ("", "")


def test_a_run_that_goes_on_has_the_page_that_it_had(tmp_path: Path, stub: Stub) -> None:
    said = tmp_path / "said"
    stub(f"open({str(said)!r}, 'a').write(given['id'] + ' '); sys.exit('enough')")
    for _ in range(2):
        tracker = Tracker(OFFLINE, shown(tmp_path))
        tracker.end(Status.COMPLETE, "")
    assert tracker.failure == "SystemExit: enough"
    identity = (tmp_path / "wandb" / "id").read_text()
    assert len(identity) == 12
    assert said.read_text().split() == [identity, identity]


def test_off_starts_nothing(tmp_path: Path) -> None:
    tracker = Tracker(WandbConfig(), shown(tmp_path / "run"))
    tracker.report(progress())
    tracker.end(Status.COMPLETE, "")
    assert not tracker.has_begun
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("raise RuntimeError('no network\\nat all')", "RuntimeError: no network at all"),
        ("raise RuntimeError('key ' + os.environ['WANDB_API_KEY'])", "RuntimeError: key ..."),
        ("os.kill(os.getpid(), 9)", "its process ended before the run did"),
        ("sys.stdout.write('noise'); sys.exit(3)", "SystemExit: 3"),
        ("return types.SimpleNamespace(log=print)", "AttributeError: "),
        ("time.sleep(100)", "no answer within 0.5 s at the end of the run"),
    ],
)
def test_what_goes_wrong_there_is_one_line(tmp_path: Path, stub: Stub, monkeypatch, capfd, body, failure) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "wandb-3f9b1c")
    if "sleep" in body:
        monkeypatch.setattr(tracking, "END_SECONDS", 0.5)
    stub(body)
    tracker = Tracker(OFFLINE, shown(tmp_path))
    result = RunResult(Status.COMPLETE, "", 0.5, {}, 1.0, 3, tmp_path)

    def train(report) -> RunResult:
        report(progress())
        return result

    reports: list[Progress] = []
    assert follow(tracker, train, reports.append) is result
    assert len(reports) == 1
    assert tracker.failure is not None
    assert tracker.failure.startswith(failure)
    # and no more is told, or started
    process = tracker._process
    assert process is not None
    assert process.returncode is not None
    tracker.report(progress())
    tracker.end(Status.COMPLETE, "")
    assert tracker._process is process
    assert capfd.readouterr() == ("", "")


def test_a_start_that_hangs_ends_while_the_run_goes_on(tmp_path: Path, stub: Stub, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "START_SECONDS", 0.0)
    stub("time.sleep(100)")
    tracker = Tracker(OFFLINE, shown(tmp_path))
    tracker.report(progress())
    tracker.report(progress(step=2))
    assert tracker.failure == "no answer within 0 s"
    assert tracker._process is not None
    assert not is_alive(tracker._process.pid)


def test_a_folder_that_cannot_be_written_is_a_failure_of_wandb_alone(tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("a file")
    tracker = Tracker(OFFLINE, shown(tmp_path))
    tracker.report(progress())
    assert tracker.failure == "cannot be started (File exists)"


def test_a_service_that_is_killed_or_hangs_harms_nothing_and_does_not_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "END_SECONDS", 1.5)
    for number, kill in enumerate((signal.SIGKILL, signal.SIGSTOP)):
        tracker = Tracker(OFFLINE, shown(tmp_path / str(number)))
        tracker.report(progress())
        assert tracker._process is not None
        until(lambda tracker=tracker: tracker._has_started)
        (service,) = tracking._children(tracker._process.pid)
        os.kill(service, kill)
        for step in range(2, 5):
            tracker.report(progress(step=step))
        tracker.end(Status.COMPLETE, "")
        assert tracker.failure is not None
        assert not is_alive(tracker._process.pid)
        # it is killed, too, and nobody's child by then: nobody waits until it is gone
        until(lambda service=service: not is_alive(service))


def test_nothing_outlives_a_process_that_was_killed(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from ups.core import tracking
from ups.core.tracking import *
tracking.END_SECONDS = 120.0
tracker = Tracker(WandbConfig(mode="offline"), Shown(Path(sys.argv[1]), "killed", "train", {}))
tracker.report(Progress("operator", 1, 4, 0.25, 1, 0.5, 0.5, 1.0))
while not tracker._has_started:
    time.sleep(0.05)
print(tracker._process.pid, *tracking._children(tracker._process.pid), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    helpers = [int(word) for word in done.stdout.split()]
    assert len(helpers) == 2, done.stderr
    until(lambda: not any(map(is_alive, helpers)))
    (page,) = pages(tmp_path)
    assert page.history[0]["operator/step"] == 1
    assert page.code == 1


def test_what_a_run_raises_passes_through_and_ends_its_page(tmp_path: Path, stub: Stub) -> None:
    tracker = Tracker(OFFLINE, shown(tmp_path))

    def refuse(report) -> RunResult:
        raise UserError("refused")

    with pytest.raises(UserError, match="refused"):
        follow(tracker, refuse, lambda progress: None)
    assert not tracker.has_begun


def test_wandb_that_is_asked_for_and_missing_is_said_before_anything_trains(monkeypatch) -> None:
    check_installed(OFFLINE)
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    check_installed(WandbConfig())
    with pytest.raises(UserError, match=r"logging.wandb.mode: offline needs the package wandb.*pip install"):
        check_installed(OFFLINE)


def test_off_is_off_however_yaml_reads_it() -> None:
    assert WandbConfig.parse({"mode": False}).mode == "off"
    with pytest.raises(ConfigError, match="mode"):
        WandbConfig.parse({"mode": True})
    with pytest.raises(ConfigError, match="project"):
        WandbConfig.parse({"project": "a/b"})

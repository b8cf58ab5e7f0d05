"""Runs that share a store: each stage is trained once, by whoever comes first, and goes on where the dead left it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ups.config import RunConfig
from ups.core import artifacts
from ups.core.artifacts import ArtifactStore
from ups.core.checkpoint import load_checkpoint
from ups.core.errors import StageBusy
from ups.core.types import Progress, RunResult, Status
from ups.data.task import load_task
from ups.evaluation.runs import load_result
from ups.run import train_run
from ups.training.keys import stage_keys
from ups.training.takeover import take_over

SPAWN = multiprocessing.get_context("spawn")
LR = "stages.operator.optimizer.lr"


@pytest.fixture(scope="module")
def config(tiny: dict[str, Any]) -> RunConfig:
    return RunConfig.parse(tiny).override({"logging.log_every_n_steps": 1})


@pytest.fixture(scope="module")
def uninterrupted(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train_run(config, tmp_path_factory.mktemp("whole") / "run", evaluate_on="none")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


def assert_equal(result: RunResult, whole: RunResult) -> None:
    """Bit for bit: weights, averages, optimizer, scores."""
    assert result.status is Status.COMPLETE
    assert result.milestones == whole.milestones
    assert result.score == whole.score
    for name in ("best", "last"):
        file = f"checkpoints/operator/{name}.safetensors"
        ours, theirs = load_checkpoint(result.folder / file), load_checkpoint(whole.folder / file)
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(value, ours.tensors[key]) for key, value in theirs.tensors.items()), name


def _train(root: Path, name: str, config: RunConfig) -> None:
    """Train; tell when it begins to wait for another run."""
    sleep = time.sleep

    def pause(seconds: float) -> None:
        (root / f"{name}-waits").touch()
        sleep(seconds)

    artifacts.time.sleep = pause  # type: ignore[attr-defined]
    with open(root / f"{name}-steps", "a") as steps:

        def note(progress: Progress) -> None:
            steps.write(f"{progress.step}\n")
            steps.flush()

        train_run(config, root / name, note, evaluate_on="none", store=root / "store", resume=(root / name).exists())


def _train_and_die(root: Path, name: str, config: RunConfig) -> None:
    """Train to the second validation, wait for the word, and die as the machine would make it die."""

    def die(progress: Progress) -> None:
        if progress.score is not None and progress.share == 0.5:
            (root / "halfway").touch()
            until((root / "die").exists)
            os.kill(os.getpid(), signal.SIGKILL)

    train_run(config, root / name, die, evaluate_on="none", store=root / "store")


def test_of_runs_that_need_the_same_stage_at_once_one_trains_it(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path
) -> None:
    processes = [SPAWN.Process(target=_train, args=(tmp_path, name, config)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    results = [load_result(tmp_path / name) for name in "ab"]
    assert sorted(result.reused_stages for result in results) == [(), ("operator",)]
    assert {result.score for result in results} == {uninterrupted.score}
    assert sorted(bool((tmp_path / f"{name}-steps").read_text()) for name in "ab") == [False, True]
    assert all(result.stage_keys == uninterrupted.stage_keys for result in results)


def test_a_waiter_goes_on_where_a_killed_run_stopped(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path
) -> None:
    first = SPAWN.Process(target=_train_and_die, args=(tmp_path, "first", config))
    waiter = SPAWN.Process(target=_train, args=(tmp_path, "waiter", config))
    try:
        first.start()
        until((tmp_path / "halfway").exists)
        waiter.start()
        until((tmp_path / "waiter-waits").exists)
        (tmp_path / "die").touch()
        first.join()
        assert first.exitcode == -signal.SIGKILL
        waiter.join()
        assert waiter.exitcode == 0
    finally:
        for process in (first, waiter):
            process.kill()
    result = load_result(tmp_path / "waiter")
    assert result.reused_stages == ()
    assert_equal(result, uninterrupted)
    steps = [int(line) for line in (tmp_path / "waiter-steps").read_text().split()]
    half = load_checkpoint(tmp_path / "first" / "checkpoints" / "operator" / "last.safetensors").facts["state"]["step"]
    assert min(steps) == half + 1
    # nothing of the leases stays behind
    assert list((tmp_path / "store" / "leases").iterdir()) == []


class Stop(Exception):
    """Stands for whatever ends a run from outside, such as a scheduler that prunes it."""


def stop_at(share: float) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.score is not None and progress.share >= share:
            raise Stop

    return report


def test_what_a_pruned_run_has_trained_is_not_lost(config: RunConfig, uninterrupted: RunResult, tmp_path: Path) -> None:
    for name, share in (("a", 0.25), ("b", 0.75)):
        with pytest.raises(Stop):
            train_run(config, tmp_path / name, stop_at(share), evaluate_on="none", store=tmp_path / "store")
    seen: list[float] = []
    result = train_run(
        config, tmp_path / "c", lambda p: seen.append(p.share), evaluate_on="none", store=tmp_path / "store"
    )
    assert min(seen) > 0.75
    assert_equal(result, uninterrupted)


@pytest.mark.parametrize("lost_at", ["first step", "half"])
def test_a_run_that_lost_its_lease_begins_where_it_can(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path, lost_at: str
) -> None:
    """It was suspended for so long that it was taken for dead; who took the stage over has gone, too."""
    leases = tmp_path / "store" / "leases"
    steps: list[int] = []

    def lose(progress: Progress) -> None:
        if progress.step not in steps and (not steps if lost_at == "first step" else progress.share == 0.5):
            for place in leases.iterdir():
                shutil.rmtree(place)
        steps.append(progress.step)

    result = train_run(config, tmp_path / "run", lose, evaluate_on="none", store=tmp_path / "store")
    assert_equal(result, uninterrupted)
    assert steps.count(1) == (2 if lost_at == "first step" else 1)


def test_a_checkpoint_of_another_stage_is_never_gone_on_from(uninterrupted: RunResult, tmp_path: Path) -> None:
    theirs = uninterrupted.folder / "checkpoints" / "operator"
    key = uninterrupted.stage_keys["operator"]
    assert not take_over(tmp_path / "other", "another key", [theirs, tmp_path / "gone"])
    assert not (tmp_path / "other" / "last.safetensors").exists()
    assert take_over(tmp_path / "mine", key, [tmp_path / "gone", theirs])
    assert not take_over(tmp_path / "mine", "another key", [])
    # half a file: the machine failed while it was copied
    shutil.copytree(theirs, tmp_path / "half")
    whole = (theirs / "best.safetensors").read_bytes()
    (tmp_path / "half" / "best.safetensors").write_bytes(whole[: len(whole) // 2])
    assert not take_over(tmp_path / "mine", key, [tmp_path / "half"])
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_run_that_will_not_wait_says_so_before_it_begins(config: RunConfig, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    key = stage_keys(config, load_task(config.task).fingerprint)["operator"]
    with store.claim(key, "operator"):  # type: ignore[union-attr]
        with pytest.raises(StageBusy) as busy:
            train_run(config, tmp_path / "run", evaluate_on="none", store=store.root, busy="raise")
        assert (busy.value.stage, busy.value.key) == ("operator", key)
        assert not (tmp_path / "run").exists()
    assert not store.is_busy(key)
    result = train_run(config, tmp_path / "run", evaluate_on="none", store=store.root, busy="raise")
    assert result.status is Status.COMPLETE


def test_a_busy_later_stage_leaves_the_run_resumable(config: RunConfig, tmp_path: Path) -> None:
    flow = {"epochs": 2, "batch_size": 16, "validations": 1, "windows_per_trajectory": 1, "horizon": 1}
    change = {f"stages.diff_residual.{name}": value for name, value in flow.items()}
    config = config.override({**change, "corrector.depth": 1, "corrector.hidden_dim": 16})
    store = ArtifactStore(tmp_path / "store")
    keys = stage_keys(config, load_task(config.task).fingerprint)
    with store.claim(keys["diff_residual"], "diff_residual"):  # type: ignore[union-attr]
        with pytest.raises(StageBusy, match="diff_residual"):
            train_run(config, tmp_path / "run", evaluate_on="none", store=store.root, busy="raise")
        assert store.has(keys["operator"])
    kept: list[set[str]] = []

    def collect(progress: Progress) -> None:
        if progress.stage == "diff_residual":
            store.gc(0)
            kept.append({artifact.what for artifact in store.ls()})

    result = train_run(config, tmp_path / "run", collect, evaluate_on="none", store=store.root, resume=True)
    assert result.status is Status.COMPLETE
    assert result.reused_stages == ()  # it has trained the operator itself
    # what a stage reads while it trains stays, what a run has copied may go
    assert kept
    assert all(what == {"latents"} for what in kept)
    assert store.gc(0).fits


def test_a_stage_that_is_collected_while_it_is_read_is_trained_again(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    train_run(config, tmp_path / "a", evaluate_on="none", store=store)
    find = ArtifactStore.find

    def too_late(self: ArtifactStore, key: str) -> Path | None:
        found = find(self, key)
        if found is not None:
            monkeypatch.setattr(ArtifactStore, "find", find)
            self.gc(0)
        return found

    monkeypatch.setattr(ArtifactStore, "find", too_late)
    result = train_run(config, tmp_path / "b", evaluate_on="none", store=store)
    assert result.reused_stages == ()
    assert_equal(result, uninterrupted)


@pytest.mark.parametrize(("lr", "status"), [(1e6, Status.EXPLODED), (1e-12, Status.STALLED)])
def test_nobody_pays_twice_for_a_stage_that_fails(config: RunConfig, tmp_path: Path, lr: float, status: Status) -> None:
    config = config.override({LR: lr})
    first = train_run(config, tmp_path / "a", evaluate_on="none", store=tmp_path / "store")
    assert (first.status, first.reused_stages) == (status, ())

    def never(progress: Progress) -> None:
        raise AssertionError("trained again")

    second = train_run(config, tmp_path / "b", never, evaluate_on="none", store=tmp_path / "store")
    assert (second.status, second.seconds, second.reused_stages) == (status, 0, ("operator",))
    assert second.reason == f"{first.reason} (known from an earlier run)"
    assert second.milestones == first.milestones
    assert train_run(config, tmp_path / "b", never, evaluate_on="none", resume=True) == second
    (artifact,) = ArtifactStore(tmp_path / "store").ls()
    assert artifact.bytes < 2000  # the verdict, no weights
    # where time is limited another machine may come further
    limited = config.override({"stages.operator.time_limit_seconds": 600.0})
    for name in ("c", "d"):
        result = train_run(limited, tmp_path / name, evaluate_on="none", store=tmp_path / "store")
        assert (result.status, result.reused_stages) == (status, ())

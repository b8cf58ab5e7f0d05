"""Runs on machines that share nothing but an object store: each stage is trained once, and goes on where a lost machine
left it. Every run here has a cache of its own, as on a node of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from s3_server import S3Server

from ups.config import RunConfig
from ups.core import objects, unfinished
from ups.core.checkpoint import BEST, LAST, copy_of, load_checkpoint
from ups.core.remote_store import RemoteStore, open_store
from ups.core.store import Store
from ups.core.types import Progress, RunResult, Status
from ups.evaluation.runs import load_result
from ups.run import train_run
from ups.training.pipeline import Pipeline

SPAWN = multiprocessing.get_context("spawn")
OPERATOR = Path("checkpoints", "operator")


@pytest.fixture(scope="module")
def config(tiny: dict[str, Any]) -> RunConfig:
    return RunConfig.parse(tiny).override({"logging.log_every_n_steps": 1})


@pytest.fixture(scope="module")
def uninterrupted(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train_run(config, tmp_path_factory.mktemp("whole") / "run", evaluate_on="none")


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("UPS_CACHE", str(tmp_path / "cache"))
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.05)


def assert_equal(result: RunResult, whole: RunResult) -> None:
    """Bit for bit: weights and scores."""
    assert result.status is Status.COMPLETE
    assert (result.score, result.milestones) == (whole.score, whole.milestones)
    ours, theirs = (load_checkpoint(each.folder / OPERATOR / "best.safetensors").tensors for each in (result, whole))
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def _on_a_node(node: Path) -> None:
    os.environ["UPS_CACHE"] = str(node / "cache")
    torch.set_num_threads(1)


def _train(node: Path, config: RunConfig, uri: str) -> None:
    _on_a_node(node)
    with open(node / "steps", "a") as steps:
        train_run(config, node / "run", lambda p: steps.write(f"{p.step}\n") and None, evaluate_on="none", store=uri)


def _train_until_told_to_die(node: Path, config: RunConfig, uri: str) -> None:
    _on_a_node(node)
    unfinished.LOOK_SECONDS = 0.05

    def hang(progress: Progress) -> None:
        if progress.score is not None and progress.share == 0.5:
            (node / "halfway").touch()
            time.sleep(600)

    train_run(config, node / "run", hang, evaluate_on="none", store=uri)


def test_two_machines_train_a_stage_once(
    config: RunConfig, uninterrupted: RunResult, s3: S3Server, tmp_path: Path
) -> None:
    uri, nodes = s3.bucket(), [tmp_path / name for name in "ab"]
    for node in nodes:
        node.mkdir()
    processes = [SPAWN.Process(target=_train, args=(node, config, uri)) for node in nodes]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    results = [load_result(node / "run") for node in nodes]
    assert sorted(result.reused_stages for result in results) == [(), ("operator",)]
    for result in results:
        assert_equal(result, uninterrupted)
    assert sorted(bool((node / "steps").read_text()) for node in nodes) == [False, True]
    # neither leases nor checkpoints of the way stay
    assert {name.split("/")[0] for name in s3.contents(uri)} == {"blobs", "manifests", "used"}
    assert [artifact.what for artifact in RemoteStore(uri, tmp_path / "c").ls()] == ["operator"]


def test_what_a_lost_machine_trained_is_not_lost(
    config: RunConfig, uninterrupted: RunResult, s3: S3Server, tmp_path: Path
) -> None:
    uri, node = s3.bucket(), tmp_path / "node"
    node.mkdir()
    store = RemoteStore(uri, tmp_path / "look")

    def uploaded() -> int:
        found = [store.find(artifact.key) for artifact in store.ls()]
        return load_checkpoint(found[0] / "last.safetensors").facts["state"]["step"] if found and found[0] else 0

    process = SPAWN.Process(target=_train_until_told_to_die, args=(node, config, uri))
    try:
        process.start()
        until((node / "halfway").exists)
        half = load_checkpoint(node / "run" / OPERATOR / "last.safetensors").facts["state"]["step"]
        until(lambda: uploaded() == half)
        # their copies are for the disk that they lie on
        assert copy_of(node / "run" / OPERATOR / LAST).is_file()
        assert {Path(name).name for name in s3.contents(uri) if name.startswith("blobs/")} == {LAST, BEST}
    finally:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    shutil.rmtree(node)  # its disk is gone with it
    steps: list[int] = []
    result = train_run(config, tmp_path / "other", lambda p: steps.append(p.step), evaluate_on="none", store=uri)
    assert_equal(result, uninterrupted)
    assert min(steps) == half + 1
    assert [artifact.what for artifact in store.ls()] == ["operator"]


def test_a_server_that_refuses_while_a_run_trains_costs_nothing(
    config: RunConfig, uninterrupted: RunResult, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(unfinished, "LOOK_SECONDS", 0.01)
    uri, refused = s3.bucket(), 0

    def refuse(progress: Progress) -> None:
        nonlocal refused
        if progress.score is not None:
            s3.refuse = 8
            refused += 1

    result = train_run(config, tmp_path / "run", refuse, evaluate_on="none", store=uri)
    assert_equal(result, uninterrupted)
    assert refused == 4
    again = train_run(config, tmp_path / "again", evaluate_on="none", store=uri)
    assert again.reused_stages == ("operator",)


def test_later_stages_train_on_latents_that_another_machine_has_encoded(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = {"epochs": 2, "batch_size": 16, "validations": 1, "windows_per_trajectory": 1, "horizon": 1}
    change = {f"stages.diff_residual.{name}": value for name, value in flow.items()}
    config = config.override({**change, "corrector.depth": 1, "corrector.hidden_dim": 16})
    uri, seen = f"memory://{uuid.uuid4().hex}", []
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        monkeypatch.setenv("UPS_CACHE", str(tmp_path / name / "cache"))
        each = config.override({"stages.diff_residual.optimizer.lr": lr})
        seen.append(train_run(each, tmp_path / name / "run", evaluate_on="none", store=uri))
    folder = train_run(each, tmp_path / "plain", evaluate_on="none")
    assert [result.reused_stages for result in seen] == [(), ("operator",)]
    assert seen[1].milestones == folder.milestones
    store = RemoteStore(uri, tmp_path / "look")
    whats = sorted(artifact.what for artifact in store.ls())
    assert whats == ["diff_residual", "diff_residual", "latents", "operator"]
    latents = next(store.find(artifact.key) for artifact in store.ls() if artifact.what == "latents")
    assert latents is not None
    assert all(np.isfinite(np.load(path)).all() for path in latents.glob("*.npy"))


def test_a_rank_on_another_node_reads_its_own_copy(tmp_path: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    first, other = (RemoteStore(uri, tmp_path / name) for name in "ab")
    found = first.publish("key", lambda folder: (folder / "a").write_text("latents") and None)
    rank: Any = SimpleNamespace(store=other)
    assert Pipeline._here(rank, "key", found) == found
    shutil.rmtree(tmp_path / "a")
    here = Pipeline._here(rank, "key", found)
    assert (here / "a").read_text() == "latents"
    assert tmp_path / "b" in here.parents
    other.gc(0)
    with pytest.raises(FileNotFoundError):
        Pipeline._here(rank, "key", found)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_truncated_checkpoint_costs_a_warning(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path, name: str
) -> None:
    class Stop(Exception):
        """Stands for whatever ends a run from outside."""

    def stop(progress: Progress) -> None:
        if progress.score is not None and progress.share == 0.5:
            raise Stop

    with pytest.raises(Stop):
        train_run(config, tmp_path / "run", stop, evaluate_on="none")
    file = tmp_path / "run" / OPERATOR / f"{name}.safetensors"
    half = load_checkpoint(tmp_path / "run" / OPERATOR / LAST).facts["state"]["step"]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    steps: list[int] = []
    with pytest.warns(UserWarning, match=rf"damaged checkpoint \({name}.safetensors\); .* at step {half}") as warned:
        result = train_run(
            config, tmp_path / "run", lambda progress: steps.append(progress.step), evaluate_on="none", resume=True
        )
    assert len([each for each in warned if "damaged" in str(each.message)]) == 1
    assert min(steps) == half + 1
    assert_equal(result, uninterrupted)


def test_both_copies_damaged_cost_a_warning_and_the_stage(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path
) -> None:
    train_run(config, tmp_path / "run", evaluate_on="none")
    shutil.rmtree(tmp_path / "run" / "store", ignore_errors=True)
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / OPERATOR / "result.json").unlink()
    for path in (tmp_path / "run" / OPERATOR / LAST, copy_of(tmp_path / "run" / OPERATOR / LAST)):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"\(last.safetensors, last.copy.safetensors\); .* at its beginning"):
        result = train_run(config, tmp_path / "run", evaluate_on="none", resume=True)
    assert_equal(result, uninterrupted)


def test_a_stage_whose_artifact_is_damaged_is_published_again_by_the_checkpoints_of_its_maker(
    config: RunConfig, uninterrupted: RunResult, store: str, tmp_path: Path
) -> None:
    train_run(config, tmp_path / "run", evaluate_on="none", store=store)
    opened = open_store(store)
    (made,) = [artifact.key for artifact in opened.ls() if artifact.what == "operator"]
    corrupt_weights(opened, made)
    steps: list[int] = []
    with pytest.warns(UserWarning, match="damaged artifact"):
        heir = train_run(
            config, tmp_path / "heir", lambda progress: steps.append(progress.step), evaluate_on="none", store=store
        )
    assert steps == []
    assert_equal(heir, uninterrupted)
    assert opened.find(made) is not None
    assert {path.name for path in (tmp_path / "run" / OPERATOR).glob("*.safetensors")} == {LAST, BEST}


def corrupt_weights(store: Store, key: str) -> None:
    """One byte of them, where they are kept and in this machine's copy."""
    if isinstance(store, RemoteStore):
        (name,) = [name for name in store.objects.sizes("blobs") if name.endswith(BEST)]
        content = store.objects.read(name)
        store.objects.write(name, changed(content))
        store.cache.gc(0)
    else:
        path = store.find(key) / BEST
        path.write_bytes(changed(path.read_bytes()))


def changed(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 0xFF])


def test_truncated_weights_of_a_finished_stage_are_found_again(
    config: RunConfig, uninterrupted: RunResult, tmp_path: Path
) -> None:
    train_run(config, tmp_path / "run", evaluate_on="none")
    (tmp_path / "run" / "result.json").unlink()  # killed before its end
    file = tmp_path / "run" / OPERATOR / "best.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="taken from the store, or trained again"):
        result = train_run(config, tmp_path / "run", evaluate_on="none", resume=True)
    assert result.reused_stages == ("operator",)
    assert_equal(result, uninterrupted)

"""The loop as a run sees it: exact resume, statuses, checkpoints, and that every loss term does something."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ups.config import RunConfig
from ups.core.checkpoint import load_checkpoint, save_checkpoint
from ups.core.errors import DataError, UserError
from ups.core.types import Progress, Status
from ups.data.task import load_task
from ups.evaluation.runs import load_result
from ups.inference.build import load_surrogate
from ups.run import build_run_surrogate, count_parameters, train_run
from ups.training import loop
from ups.training.losses import operator_loss
from ups.training.stages.operator import OperatorStage


@pytest.fixture(scope="module")
def config(tiny: dict[str, Any]) -> RunConfig:
    return RunConfig.parse(tiny)


class Stop(Exception):
    """Stands for whatever ends a run from outside."""


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints" / "operator" / f"{name}.safetensors").tensors


def test_a_run_learns_and_leaves_a_predictor(config: RunConfig, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = train_run(config.override({"stages.operator.epochs": 30}), tmp_path / "run", seen.append)
    assert result.status is Status.COMPLETE
    assert list(result.milestones) == ["operator:0.25", "operator:0.5", "operator:0.75", "operator:1"]
    assert result.score == min(result.milestones.values())
    assert [p.share for p in seen if p.score is not None] == [0.25, 0.5, 0.75, 1.0]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["metrics"]["rollout_nrmse"] < report["metrics"]["persistence_rollout_nrmse"]
    assert load_result(tmp_path / "run") == result
    surrogate = load_surrogate(tmp_path / "run")
    task = load_task(config.task)
    start = torch.from_numpy(np.array(task.test.fields_STXC[:, 0]))
    assert torch.isfinite(surrogate.rollout(start, torch.from_numpy(np.array(task.test.parameters_SP)), 8)).all()


@pytest.mark.parametrize("stop_at", [0.25, 0.75])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_resume_is_exact(config: RunConfig, tmp_path: Path, stop_at: float, accumulation: int) -> None:
    config = config.override(
        {
            "stages.operator.accumulation_steps": accumulation,
            "stages.operator.epochs": 7,
            "stages.operator.optimizer.lr": 5e-3,
            "stages.operator.losses.inverse_decoding.weight": 0.1,
            "logging.log_every_n_steps": 1,
        }
    )
    losses: dict[str, list[tuple[int, float]]] = {"whole": [], "parts": []}
    train_run(config, tmp_path / "whole", lambda p: losses["whole"].append((p.step, p.train_loss)), evaluate_on="none")

    def interrupt(progress: Progress) -> None:
        losses["parts"].append((progress.step, progress.train_loss))
        if progress.score is not None and progress.share >= stop_at:
            raise Stop

    with pytest.raises(Stop):
        train_run(config, tmp_path / "parts", interrupt, evaluate_on="none")
    resumed = train_run(
        config,
        tmp_path / "parts",
        lambda p: losses["parts"].append((p.step, p.train_loss)),
        resume=True,
        evaluate_on="none",
    )
    assert dict(losses["parts"]) == dict(losses["whole"])
    whole = load_result(tmp_path / "whole")
    assert resumed.milestones == whole.milestones
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "parts")[name]), name
    assert torch.equal(
        *(weights(tmp_path / part, "best")["model.model.encoder.lift.weight"] for part in ("whole", "parts"))
    )


def test_same_seed_same_numbers_other_seed_other_numbers(config: RunConfig, tmp_path: Path) -> None:
    a, b = (train_run(config, tmp_path / name, evaluate_on="none") for name in "ab")
    other = train_run(config.override({"runtime.seed": 5}), tmp_path / "c", evaluate_on="none")
    assert a.milestones == b.milestones
    assert a.score != other.score


def test_finished_runs_are_not_trained_again(config: RunConfig, tmp_path: Path) -> None:
    first = train_run(config, tmp_path, evaluate_on="none")

    def never(progress: Progress) -> None:
        raise AssertionError("trained again")

    assert train_run(config, tmp_path, never, resume=True, evaluate_on="none") == first
    with pytest.raises(UserError, match="--resume"):
        train_run(config, tmp_path)
    with pytest.raises(UserError, match="another config"):
        train_run(config.override({"latent.dim": 4}), tmp_path, resume=True)


def test_a_folder_of_something_else_is_refused(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not a run folder"):
        train_run(config, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("epochs", [4, 200])
@pytest.mark.parametrize("lr", [10.0, 1e6])
def test_a_huge_learning_rate_ends_exploded(config: RunConfig, tmp_path: Path, epochs: int, lr: float) -> None:
    change = {"stages.operator.optimizer.lr": lr, "stages.operator.epochs": epochs}
    result = train_run(config.override(change), tmp_path, evaluate_on="none")
    assert result.status is Status.EXPLODED
    assert re.search(r"(gradient norm|loss) \S+ at step \d+ of operator", result.reason)
    assert result.seconds < 30


def test_time_limit_finishes_the_schedule_early(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of a machine that is neither too slow to learn anything in this time nor too fast
    clock = SimpleNamespace(perf_counter=itertools.count(0.0, 0.02).__next__)
    monkeypatch.setattr(loop, "time", clock)
    change = {"stages.operator.epochs": 10_000, "stages.operator.time_limit_seconds": 1.5}
    seen: list[Progress] = []
    result = train_run(config.override(change), tmp_path, seen.append, evaluate_on="none")
    assert result.status is Status.COMPLETE
    assert list(result.milestones)[-1] == "operator:1"
    assert seen[-1].step < seen[-1].total_steps
    assert result.seconds >= 1.5


def test_stalled_when_no_better_than_the_initial_mean(config: RunConfig, tmp_path: Path) -> None:
    result = train_run(config.override({"stages.operator.optimizer.lr": 1e-12}), tmp_path, evaluate_on="none")
    # an untrained model is persistence, which is worse than the mean on this data
    assert result.status is Status.STALLED
    assert "constant initial mean" in result.reason
    assert list(result.milestones)[-1] == "operator:0.5"


def test_bf16_and_float32_learn_alike(config: RunConfig, tmp_path: Path) -> None:
    scores = {
        precision: train_run(
            config.override({"runtime.precision": precision, "stages.operator.epochs": 20}),
            tmp_path / precision,
            evaluate_on="none",
        ).score
        for precision in ("float32", "bf16")
    }
    assert None not in scores.values()
    assert scores["bf16"] != scores["float32"]
    assert abs(scores["bf16"] - scores["float32"]) < 0.5 * scores["float32"]  # type: ignore[operator]


def test_accumulated_batches_equal_one_large_batch(config: RunConfig) -> None:
    """Two backward passes over halves give the gradient of the whole."""
    task = load_task(config.task)
    surrogate = build_run_surrogate(config, task)
    stage = OperatorStage(config.stages.operator, surrogate, task, config.runtime)
    batch = stage.sampler.batch(0, 2)

    def gradient(rows: slice) -> torch.Tensor:
        surrogate.zero_grad()
        part = type(batch)(batch.fields_BTXC[rows], batch.parameters_BP[rows])
        loss, _ = operator_loss(surrogate, part, config.stages.operator.losses, steps=1, mode="reencode")
        loss.backward()
        return torch.cat([p.grad.flatten() for p in surrogate.parameters() if p.grad is not None])

    halves, whole = (gradient(slice(0, 4)) + gradient(slice(4, 8))) / 2, gradient(slice(0, 8))
    assert whole.any()
    torch.testing.assert_close(halves, whole, atol=1e-7, rtol=1e-4)


def test_inverse_terms_change_the_weights_only_after_their_warmup(config: RunConfig, tmp_path: Path) -> None:
    on = {"stages.operator.losses.inverse_encoding.weight": 1.0}
    late = on | {"stages.operator.losses.inverse_encoding.warmup": 0.6}

    def first_half(change: dict[str, Any], name: str) -> dict[str, float]:
        return train_run(config.override(change), tmp_path / name, evaluate_on="none").milestones

    off, early, warm = first_half({}, "off"), first_half(on, "on"), first_half(late, "late")
    assert early["operator:0.25"] != off["operator:0.25"]
    assert warm["operator:0.5"] == off["operator:0.5"]
    assert warm["operator:1"] != off["operator:1"]


def test_damaged_checkpoints_are_one_line(config: RunConfig, tmp_path: Path) -> None:
    train_run(config, tmp_path, evaluate_on="none")
    best = tmp_path / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged checkpoint"):
        load_surrogate(tmp_path)
    operator = load_checkpoint(tmp_path / "checkpoints" / "operator" / "best.safetensors")
    others = [*operator.tensors][1:]
    save_checkpoint(best, replace(operator, tensors={each: operator.tensors[each] for each in others}))
    with pytest.raises(DataError, match=r"best\.safetensors: its weights are not of the model") as refused:
        load_surrogate(tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="nowhere: no trained run here"):
        load_surrogate(tmp_path / "nowhere")


def test_records_are_strict_json(config: RunConfig, tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    change = {"stages.operator.accumulation_steps": 3, "logging.log_every_n_steps": 1}
    train_run(config.override(change), tmp_path, evaluate_on="none")
    for line in (tmp_path / "progress.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)


def test_count_parameters_allocates_nothing_and_agrees(config: RunConfig) -> None:
    task = load_task(config.task)
    assert count_parameters(config, task.spec) == build_run_surrogate(config, task).num_parameters


def test_fno_trains_by_the_same_loop(config: RunConfig, tmp_path: Path) -> None:
    fno = config.override({"baseline.kind": "fno", "baseline.width": 8, "baseline.modes": 4, "baseline.depth": 2})
    result = train_run(fno, tmp_path)
    assert result.status is Status.COMPLETE
    assert load_surrogate(tmp_path).has_latent is False

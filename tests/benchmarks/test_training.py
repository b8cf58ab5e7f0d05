"""One run of a benchmark: the learning rate that is chosen, what it costs, and its errors on unseen trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training

from ups.config import RunConfig
from ups.core.errors import UserError
from ups.data.task import load_task
from ups.evaluation.evaluate import evaluate_run
from ups.run import build_run_surrogate


def outcome(score: float | None, status: str = "COMPLETE") -> dict[str, Any]:
    return {"score": score, "status": status, "reason": ""}


def test_the_best_validation_score_chooses_the_rate() -> None:
    assert training.select_rate({1e-3: outcome(0.3), 3e-3: outcome(0.1), 6e-3: outcome(0.2)}) == 3e-3
    assert training.select_rate({3e-3: outcome(0.1), 1e-3: outcome(0.1)}) == 1e-3


def test_a_run_that_did_not_complete_is_the_last_choice() -> None:
    exploded = outcome(0.01, "EXPLODED")
    assert training.select_rate({1e-3: outcome(0.3), 6e-3: exploded}) == 1e-3
    assert training.select_rate({1e-3: outcome(None, "EXPLODED"), 6e-3: exploded}) == 6e-3
    assert training.select_rate({6e-3: outcome(None, "EXPLODED"), 1e-3: outcome(None, "EXPLODED")}) == 1e-3


def test_errors_of_trajectories_are_those_of_the_report(tiny: dict[str, Any]) -> None:
    tiny_config = RunConfig.parse(tiny)
    task = load_task(tiny_config.task)
    surrogate = build_run_surrogate(tiny_config, task).eval()
    metrics = evaluate_run(surrogate, task, "test").metrics
    for protocol, name in {"one_step": "one_step", "reencode": "reencode_rollout", "latent": "latent_rollout"}.items():
        errors = training.trajectory_errors(surrogate, task.test, protocol)
        assert len(errors) == 4
        assert np.mean(errors) == pytest.approx(metrics[f"{name}_nrmse"], rel=1e-6)


def test_the_errors_from_the_deployed_rollout_are_those_of_its_mode(tiny: dict[str, Any]) -> None:
    config = RunConfig.parse(tiny).override({"inference.rollout": "latent"})
    task = load_task(config.task)
    surrogate = build_run_surrogate(config, task).eval()
    assert training.trajectory_errors(surrogate, task.test, "rollout") == training.trajectory_errors(
        surrogate, task.test, "latent"
    )


def test_a_run_says_what_it_cost(tiny: dict[str, Any], tmp_path: Path) -> None:
    found = training.train(RunConfig.parse(tiny), tmp_path / "run")
    assert found["status"] == "COMPLETE"
    assert found["steps"] == 4 * 4
    assert [moment["share"] for moment in found["curve"]] == [0.25, 0.5, 0.75, 1.0]
    assert found["score"] == min(moment["score"] for moment in found["curve"])
    assert 0 < found["peak_gib"] < 16
    assert str(tmp_path) not in json.dumps(found)


def test_a_warm_up_in_epochs_is_refused() -> None:
    with pytest.raises(UserError, match="must be a share of the stage"):
        training.run_config("burgers1d", {"stages.operator.losses.inverse_encoding.warmup": 2.0})


def test_a_file_that_was_pointed_to_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.h5"
    file.write_bytes(b"")
    assert training.data_file(file, 0.01, quick=False) == file

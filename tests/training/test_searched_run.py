"""A run that ends with its search at test time: what is kept, what is told, and that a failing search loses nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from ups.config import RunConfig
from ups.core.types import Status
from ups.data.task import load_task
from ups.evaluation.evaluate import score
from ups.inference.build import load_surrogate
from ups.run import train_run
from ups.training import pipeline

SEARCHED = {"ttc.enabled": True, "ttc.noise_std": 0.1, "ttc.candidates": 4}


@pytest.fixture(scope="module")
def config(tiny: dict[str, Any]) -> RunConfig:
    return RunConfig.parse(tiny).override(SEARCHED)


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def strict(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_search_that_helps_is_deployed_and_reported(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train_run(config, run)
    told = result.stages["inference"]
    assert told["kept"]
    assert result.score == told["score_after"] == result.milestones["inference:1"] < told["score_before"]
    deployed = load_surrogate(run)
    assert deployed.search is not None
    assert score(deployed, load_task(config.task).validation) == result.score
    report = strict(run / "report.json")
    assert report["ttc"]["nrmse"] == pytest.approx(report["metrics"]["rollout_nrmse"])
    assert report["ttc"]["plain_nrmse"] == pytest.approx(report["metrics"]["plain_rollout_nrmse"])


def out_of_memory(*given: Any) -> float:
    raise torch.OutOfMemoryError("no memory left")


@pytest.mark.parametrize(
    ("failing", "status", "words"),
    [
        (out_of_memory, Status.OUT_OF_MEMORY, "out of memory"),
        (lambda *given: math.inf, Status.COMPLETE, "left the finite range"),
    ],
    ids=["memory", "infinite"],
)
def test_a_search_that_fails_leaves_the_trained_predictor(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Any, status: Status, words: str
) -> None:
    monkeypatch.setattr(pipeline, "score", failing)
    run = tmp_path / "run"
    result = train_run(config, run, evaluate_on="none")
    assert result.status is Status.COMPLETE
    told = strict(run / "result.json")["stages"]["inference"]
    assert told["status"] == status
    assert words in told["note"]
    assert told["score_after"] is None
    assert not told["kept"]
    assert [json.loads(line, parse_constant=refuse) for line in (run / "progress.jsonl").open()]
    deployed = load_surrogate(run)
    assert deployed.search is None
    assert score(deployed, load_task(config.task).validation) == result.score == told["score_before"]


def test_what_a_search_raises_otherwise_is_not_swallowed(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> float:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(pipeline, "score", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train_run(config, tmp_path / "run", evaluate_on="none")

"""The two loops do the same work, and the interval holds the median as often as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_overhead as script

from ups.config import RunConfig
from ups.data.task import load_task


@pytest.fixture
def plain(tiny: dict[str, Any]) -> RunConfig:
    """A stage in which the project's loop changes nothing of a step: no clipping, a constant rate."""
    return RunConfig.parse(tiny).override(
        {
            "stages.operator.epochs": 1,
            "stages.operator.validations": 1,
            "stages.operator.grad_clip": None,
            "stages.operator.schedule.kind": "constant",
            "stages.operator.schedule.warmup": 0.0,
        }
    )


@pytest.mark.parametrize("lag", [0, 1])
def test_both_loops_take_the_same_steps(
    plain: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    task = load_task(plain.task)
    stages = []
    build = script.build_stage
    monkeypatch.setattr(script, "build_stage", lambda *given: stages.append(build(*given)) or stages[-1])
    found = script.measure_round(plain, task, tmp_path, lag)
    assert found["steps"] == 4
    assert min(found[name] for name in ("loop", "bare", "validation")) > 0
    ours, bare = (dict(stage.model.named_parameters()) for stage in stages)
    assert all(torch.equal(ours[name], bare[name]) for name in ours)
    start = dict(build(plain, task).model.named_parameters())
    assert any(not torch.equal(ours[name], start[name]) for name in ours)


@pytest.mark.parametrize("count", [6, 8, 15])
def test_the_interval_holds_the_median(count: int) -> None:
    random = np.random.default_rng(0)
    held = 0
    for sample in random.exponential(size=(2000, count)):
        low, high = script.median_interval(sample.tolist())
        held += low <= np.log(2) <= high
    assert held / 2000 >= 0.94


def test_two_rounds_span_all_there_is() -> None:
    assert script.median_interval([1.2, 1.1]) == (1.1, 1.2)


def test_the_report() -> None:
    rounds = [{"steps": 100, "loop": 0.0102 + 1e-5 * (k - 3.5), "bare": 0.01, "validation": 0.001} for k in range(8)]
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}
    answer = {"rounds": rounds, "commit": "abc1234", "date": "2025-01-01"}
    data = script.collect({"config": "burgers1d", "log_every_n_steps": 20}, answer, machine)
    text = script.render(json.loads(json.dumps(data)))
    assert "Ratio: **1.020**" in text
    assert "at most 1.05, is reached" in text
    slow = script.collect(data["protocol"], {**answer, "rounds": [{**each, "bare": 0.009} for each in rounds]}, machine)
    assert slow["verdict"] == "missed"

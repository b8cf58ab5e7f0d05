"""What later stages bring, of synthetic runs; and the configs of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stages as script
import stages_report

SCALES = {"operator": 0.2, "diffusion": 0.1, "student 1": 0.105, "student 2": 0.12}


def errors(scale: float, seed: int) -> list[float]:
    return list(scale * np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed))


def predictor(scale: float, seed: int) -> dict[str, Any]:
    return {
        **{split: errors(scale, seed) for split in ("validation", "test", "one_step")},
        "ms_per_trajectory": 3.0,
    }


def run(kind: str, seed: int, scales: dict[str, float]) -> dict[str, Any]:
    summary = {"reused": False}
    stages = {
        "operator": {**summary, "score_before": None, "score_after": 0.2, "kept": True, "seconds": 40.0},
        "diff_residual": {**summary, "score_before": 0.2, "score_after": 0.1, "kept": True, "seconds": 40.0},
        "consistency_distill": {**summary, "score_before": 0.1, "score_after": 0.15, "kept": False, "seconds": 20.0},
    }
    ranks = {"rank_correlation": 0.5, "relative_rank_correlation": 0.2, "size_rank_correlation": 0.5}
    ensemble = {**ranks, "spread_skill": 0.9, "member_nrmse": 0.1, "nrmse": 0.09}
    return {
        **{"kind": kind, "seed": seed, "status": "COMPLETE", "reason": "", "core_share": 1.0, "no_skill": 0.5},
        **{"stages": stages, "predictors": {name: predictor(scale, seed) for name, scale in scales.items()}},
        "ensembles": {"diffusion": ensemble, "student 1": {**ensemble, "relative_rank_correlation": 0.4}},
        **{"commit": "abc1234", "date": "2025-01-01"},
    }


@pytest.fixture
def data() -> dict[str, Any]:
    found = [run("stages", seed, SCALES) for seed in range(3)]
    found += [run("control", seed, {"operator": 0.05}) for seed in range(3)]
    protocol = {
        **{"config": "burgers1d_diffusion", "nu": 0.01, "cells": 256, "frames": 41, "dt": 0.05, "seeds": [0, 1, 2]},
        **{"train": 8, "validation": 8, "test": 8, "members": 8, "sampler_steps": 4, "solver": "euler"},
        **{"temperature": 0.5, "control_seconds": 125.0},
        "seconds": {"operator": 45.0, "diffusion": 30.0, "student": 20.0},
    }
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    return json.loads(json.dumps(stages_report.collect(protocol, found, machine), allow_nan=False))


def test_shares_of_score_and_time(data: dict[str, Any]) -> None:
    shares = {each["stage"]: each for each in data["shares"]}
    assert shares["operator"]["score_share"] == pytest.approx(0.75)
    assert shares["diff_residual"]["score_share"] == pytest.approx(0.25)
    # it was left out: nothing is taken away by it
    assert shares["consistency_distill"]["score_share"] == 0
    assert shares["consistency_distill"]["deployed"] == 0
    assert [each["time_share"] for each in data["shares"]] == pytest.approx([0.4, 0.4, 0.2])


def test_the_verdicts_follow_the_intervals(data: dict[str, Any]) -> None:
    text = stages_report.render(data)
    assert "The diffusion residual lowers the validation error of the operator alone, -50.0%" in text
    assert "With student, 1 step: 1.05 times the teacher's test error; the aim, at most 1.1, is reached." in text
    assert "With student, 2 steps: 1.2 times the teacher's test error; the aim, at most 1.1, is missed." in text
    # the operator with all the time is better than what the stages came to
    assert "with diffusion residual has 2 times its test error, operator, given the time of all stages better" in text


def test_a_spread_that_follows_the_size_alone_misses_the_aim(data: dict[str, Any]) -> None:
    lines = [line for line in stages_report.render(data).splitlines() if line.endswith(("| missed |", "| reached |"))]
    assert lines[0].startswith("| with diffusion residual |")
    assert lines[0].endswith("| missed |")
    assert lines[1].endswith("| reached |")


def test_a_run_that_failed_is_left_out(data: dict[str, Any]) -> None:
    for each in data["runs"]:
        each |= {"status": "STALLED", "reason": "not below the mean"}
    empty = stages_report.collect(data["protocol"], data["runs"], data["machine"])
    text = stages_report.render(empty)
    assert "Too few runs completed" in text
    assert "Note: stages, seed 0 is left out, STALLED: not below the mean." in text


def test_the_control_has_the_time_of_all_stages_and_of_their_latents(burgers_file: Path) -> None:
    args = script._arguments(["--data", str(burgers_file)])
    whole, control = (script.config_of(args, 3, all_stages=every) for every in (True, False))
    limits = [getattr(whole.stages, name).time_limit_seconds for name in script.STAGES]
    assert limits == [45, 30, 20]
    assert control.stages.operator.time_limit_seconds == args.control_seconds > sum(limits)
    assert control.stages.later() == []
    assert whole.stages.later() == list(script.STAGES[1:])
    assert whole.runtime.seed == control.runtime.seed == 3

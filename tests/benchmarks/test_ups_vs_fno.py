"""The learning rate that is chosen, the configs that are compared, and the tables made of synthetic runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ups_vs_fno as script
from fno_tables import TARGETS, collect, grade, render
from pairs import PROTOCOLS
from peers import MODELS, config_of
from training import TUNING_SEED

from ups.config import RunConfig, diff

SPLIT = {"train": 896, "validation": 64, "test": 64}


def outcome(score: float | None, status: str = "COMPLETE") -> dict[str, Any]:
    return {"score": score, "status": status, "reason": ""}


def config(model: str, seed: int = 0) -> RunConfig:
    return config_of(model, Path("data/x.h5"), SPLIT, rate=3e-3, seed=seed, seconds=300.0)


def test_the_models_differ_in_nothing_but_what_they_are() -> None:
    def changed(a: str, b: str) -> set[str]:
        return {path for path in diff(config(a), config(b)) if not path.startswith("baseline")}

    assert changed("ups", "fno_frame") <= {f"stages.operator.losses.inverse_{w}coding.weight" for w in ("en", "de")}
    assert diff(config("fno_frame"), config("fno")) == {
        "symmetry": ("auto", "none"),
        "baseline.position": (False, True),
    }
    assert changed("fno", "fno_plain") == {"stages.operator.augment", "stages.operator.losses.rollout.weight"}
    assert changed("ups", "unet_frame") <= {f"stages.operator.losses.inverse_{w}coding.weight" for w in ("en", "de")}
    assert changed("ups", "ups_anypoint") == {
        path for path in changed("ups", "ups_anypoint") if path.startswith("decoder")
    }
    assert config("ups").inference.rollout == "reencode"
    assert config("ups_latent").inference.rollout == "latent"


@pytest.mark.parametrize("model", MODELS)
def test_every_model_runs_for_the_same_time_on_one_thread(model: str) -> None:
    found = config(model)
    assert found.stages.operator.time_limit_seconds == 300
    assert found.runtime.threads == 1
    assert (found.task.space_stride, found.task.time_stride, found.task.frames) == (4, 5, 41)
    assert found.stages.operator.validations == 8
    assert config(model, TUNING_SEED).stages.operator.validations == 2


def test_the_tuning_seed_is_no_final_seed() -> None:
    with pytest.raises(SystemExit):
        script._arguments(["--seeds", "0", str(TUNING_SEED)])


def run(scale: float, *, latent: bool, seed: int, core_share: float = 1.0) -> dict[str, Any]:
    error = scale * np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed)
    protocols = [name for name in PROTOCOLS if latent or name != "latent"]
    return {
        **outcome(scale),
        "milestones": {f"operator:{k / 8:g}": scale * 8 / k for k in range(1, 9)},
        "seconds": 300.0,
        "steps": 6000,
        "parameters": 123456,
        "core_share": core_share,
        "errors": {name: error.tolist() for name in protocols},
        "ms_per_trajectory": 5.0,
        "deployed": "reencode",
        "commit": "abc1234",
        "date": "2025-01-01",
    }


@pytest.fixture
def data() -> dict[str, Any]:
    tuned = {name: {1e-3: outcome(0.2), 3e-3: outcome(0.1), 6e-3: outcome(None, "EXPLODED")} for name in ("ups", "fno")}
    runs = {
        "ups": {seed: run(0.008, latent=True, seed=seed) for seed in range(3)},
        "fno": {seed: run(0.016, latent=False, seed=seed) for seed in range(3)},
    }
    runs["fno"][2] = {**outcome(0.3, "EXPLODED"), "milestones": {"operator:0.125": 0.9}} | {
        key: runs["fno"][2][key] for key in ("seconds", "steps", "parameters", "core_share", "commit", "date")
    }
    runs["fno"][2]["reason"] = "gradient norm 1e7"
    reference = {"errors": {name: [0.5, None] for name in PROTOCOLS if name != "latent"}, "ms_per_trajectory": 0.1}
    protocol = {
        **{"nu": 0.01, "cells": 256, "frames": 41, "dt": 0.05, **SPLIT, "seconds": 300.0, "tune_seconds": 45.0},
        **{"rates": [1e-3, 3e-3, 6e-3], "seeds": [0, 1, 2], "tuning_seed": 1000, "validations": 8},
        "targets": TARGETS["0.01"],
    }
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    found = collect(protocol, tuned, {"ups": 3e-3, "fno": 3e-3}, runs, {"persistence": reference}, machine)
    return json.loads(json.dumps(found, allow_nan=False))


def row(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_holds_means_over_seeds_and_medians(data: dict[str, Any]) -> None:
    cells = row(render(data), "**UPS**")
    assert cells[1] == "123,456"
    assert cells[2] == "0.00808 ± 8e-05 (0.00808)"
    assert cells[6] == "20 ± 0"
    assert cells[8] == "missed, excellent, excellent, pass"
    assert row(render(data), "FNO without frame")[4] == "–"


def test_a_ratio_is_taken_on_the_seeds_that_both_completed(data: dict[str, Any]) -> None:
    deployed = next(each for each in data["comparisons"] if each["protocol"] == "deployed")
    assert deployed["seeds"] == [0, 1]
    assert deployed["ratio_of_means"] == pytest.approx(0.5)
    assert deployed["typical_ratio"] == pytest.approx(0.5)
    assert deployed["low"] <= 0.5 + 1e-9
    assert deployed["high"] >= 0.5 - 1e-9
    assert deployed["difference"] < deployed["difference_high"] < 0
    assert deployed["verdict"] == "UPS better"


def test_what_failed_is_said_and_not_averaged(data: dict[str, Any]) -> None:
    text = render(data)
    assert "Note: FNO without frame, seed 2 is left out, EXPLODED: gradient norm 1e7." in text
    assert row(text, "persistence")[2] == "diverges (diverges)"
    assert "core" not in "".join(line for line in text.splitlines() if line.startswith("Note"))
    data["models"]["ups"]["runs"][0]["core_share"] = 0.5
    assert "Note: 1 of 6 runs had less than 95% of their core (the least 50%)" in render(data)


def test_error_over_time_and_rates(data: dict[str, Any]) -> None:
    text = render(data)
    assert row(text, "UPS")[1:] == ["0.064", "0.032", "0.0213", "0.016", "0.0128", "0.0107", "0.00914", "0.008"]
    assert [line for line in text.splitlines() if line.startswith("| UPS | 0.2 | **0.1** | EXPLODED |")]


def test_grades() -> None:
    assert [grade(error, (0.05, 0.01)) for error in (0.01, 0.02, 0.05, 0.06, math.inf)] == [
        "excellent",
        "pass",
        "pass",
        "missed",
        "missed",
    ]
    assert grade(None, (0.05, 0.01)) == grade(0.1, None) == "–"

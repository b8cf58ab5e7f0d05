"""The table over viscosities, of synthetic runs; other grids, of a tiny model."""

from __future__ import annotations

import json
from typing import Any

import nu_report
import nu_table
import numpy as np
import pytest
import training

from ups.config import RunConfig
from ups.data.task import load_task
from ups.run import build_run_surrogate

SEEDS = (0, 1, 2)
SCALES = {"ups": 0.01, "fno_frame": 0.02, "ups_anypoint": 0.03}


def run(model: str, nu: float, seed: int, finer: dict[str, float]) -> dict[str, Any]:
    error = SCALES[model] * np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed)
    return {
        **{"model": model, "nu": nu, "seed": seed, "status": "COMPLETE", "reason": "", "core_share": 1.0},
        **{"seconds": 60.0, "steps": 1200, "parameters": 123456, "peak_gib": 0.5, "ms_per_trajectory": 5.0},
        "errors": {protocol: error.tolist() for protocol in nu_table.PROTOCOLS},
        "finer": {cells: (factor * error).tolist() for cells, factor in finer.items()},
        **{"commit": "abc1234", "date": "2025-01-01"},
    }


@pytest.fixture
def data() -> dict[str, Any]:
    found = [run(model, nu, seed, {}) for model in ("ups", "fno_frame") for nu in (0.01, 0.1) for seed in SEEDS]
    found += [run("ups_anypoint", 0.01, seed, {"512": 1.2, "1024": 2.0}) for seed in SEEDS]
    found[-1]["finer"]["1024"][0] = None
    found[3] |= {"status": "EXPLODED", "reason": "gradient norm 1e7"}
    reference = {"errors": {name: [0.5, 0.7] for name in nu_table.PROTOCOLS}}
    outcomes = {rate: {"score": rate, "status": "COMPLETE"} for rate in (1e-3, 3e-3)}
    protocol = {
        **{
            "nus": [0.01, 0.1],
            "models": ["ups", "fno_frame"],
            "cells": 256,
            "frames": 41,
            "dt": 0.05,
            **training.SPLIT,
        },
        **{"seconds": 60.0, "tune_seconds": 20.0, "tune_nu": 0.01, "rates": [1e-3, 3e-3], "seeds": list(SEEDS)},
        **{"tuning_seed": 1000, "validations": 8},
    }
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    references = {"0.01": {"persistence": reference}, "0.1": {"persistence": reference}}
    tuned = dict.fromkeys(SCALES, outcomes)
    found = nu_report.collect(protocol, tuned, dict.fromkeys(SCALES, 1e-3), found, references, machine)
    return json.loads(json.dumps(found, allow_nan=False))


def row(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_one_row_a_model_and_two_columns_a_viscosity(data: dict[str, Any]) -> None:
    text = nu_report.render(data)
    assert row(text, "**UPS**") == ["0.0101 ± 0.0001"] * 2 + ["0.0101 ± 7.1e-05"] * 2
    assert row(text, "persistence") == ["0.6"] * 4
    # known with ten given frames alone
    assert row(text, "*FNO, published, full data*") == ["–", "0.0078", "–", "0.0029"]
    assert row(text, "*FNO, audited retraining, full data*") == ["–", "0.0042", "–", "0.0014"]
    assert "Note: UPS, nu 0.1, seed 0 is left out, EXPLODED: gradient norm 1e7." in text


def test_ups_is_paired_with_every_peer_at_every_viscosity(data: dict[str, Any]) -> None:
    pairs = {(each["nu"], each["peer"], each["protocol"]): each for each in data["comparisons"]}
    assert set(pairs) == {(nu, "fno_frame", shown) for nu in ("0.01", "0.1") for shown in nu_report.SHOWN}
    assert pairs["0.01", "fno_frame", "reencode"]["ratio_of_means"] == pytest.approx(0.5)
    assert pairs["0.1", "fno_frame", "reencode"]["seeds"] == [1, 2]


def test_a_finer_grid_stands_beside_the_trained_one(data: dict[str, Any]) -> None:
    found = {each["cells"]: each for each in data["finer"]}
    assert list(found) == [256, 512, 1024]
    assert found[512]["ratio_of_means"] == pytest.approx(1.2)
    assert found[512]["verdict"] == "reached"
    assert found[1024]["ratio_of_means"] is None
    assert found[1024]["verdict"] == "missed"
    assert "| UPS any point | 1024 | diverges | diverges | – | missed |" in nu_report.render(data)


def test_the_trained_grid_is_no_other_grid(tiny: dict[str, Any]) -> None:
    config = RunConfig.parse(tiny)
    task = load_task(config.task)
    surrogate = build_run_surrogate(config, task).eval()
    here = training.trajectory_errors(surrogate, task.test, "rollout")
    found = nu_table.finer_errors(surrogate, config.task, {32: 1, 16: 2})
    assert found["32"] == pytest.approx(here)
    assert len(found["16"]) == len(here)


def test_options() -> None:
    args = nu_table._arguments([])
    assert (args.nu, args.tune_nu, args.seconds) == ([0.001, 0.01, 0.1], 0.01, 60.0)
    assert nu_table._arguments(["--nu", "0.1"]).tune_nu == 0.1
    with pytest.raises(SystemExit):
        nu_table._arguments(["--tune-nu", "0.5"])
    with pytest.raises(SystemExit):
        nu_table._arguments(["--seeds", str(training.TUNING_SEED)])

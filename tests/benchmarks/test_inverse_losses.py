"""Consistency of encoder and decoder, and the report on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import inverse_losses as script
import numpy as np
import pytest

from ups.config import RunConfig, diff
from ups.data.task import load_task
from ups.run import build_run_surrogate


def test_an_operator_that_changes_nothing_predicts_what_it_was_given(tiny: dict[str, Any]) -> None:
    config = RunConfig.parse(tiny)
    task = load_task(config.task)
    # untrained: A is the identity, so the predicted field is the given one and is encoded to A's own latent
    found = script.consistency(build_run_surrogate(config, task).eval(), task.test)
    assert found["prediction"] == pytest.approx([0.0] * len(task.test), abs=1e-5)
    assert all(0.1 < error < 100 for error in found["field"])
    assert all(0.1 < error < 2.1 for error in found["latent"])


def test_the_arms_differ_in_the_weights_alone(burgers_file: Path) -> None:
    args = script._arguments(["--data", str(burgers_file), "--weight", "0.3"])
    changed = diff(script.config_of(args, "off", 0), script.config_of(args, "on", 0))
    assert changed == {f"stages.operator.losses.inverse_{which}coding.weight": (0.0, 0.3) for which in ("en", "de")}


def run(arm: str, seed: int, scales: dict[str, float]) -> dict[str, Any]:
    shape = np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed)
    return {
        **{"arm": arm, "seed": seed, "status": "COMPLETE", "reason": "", "core_share": 1.0, "steps": 100},
        **{"seconds": 50.0, "commit": "abc1234", "date": "2025-01-01"},
        "errors": {name: list(scales.get(name, 0.1) * shape) for name in script.MEASURES},
    }


def test_the_report_says_what_fell_and_what_rose() -> None:
    found = [run("off", seed, {}) for seed in range(3)]
    found += [run("on", seed, {"field": 0.05, "reencode_rollout": 0.2}) for seed in range(3)]
    protocol = {"config": "burgers1d_latent", "cells": 256, "frames": 41, "dt": 0.05, "train": 8, "validation": 8}
    protocol |= {"test": 8, "seconds": 50.0, "seeds": [0, 1, 2], "weight": 0.1}
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    text = script.render(json.loads(json.dumps(script.collect(protocol, found, machine))))
    assert "lower field, encoded and decoded (0.5); raise 40 frames, re-encoded (2); leave undecided" in text
    found[4] |= {"status": "EXPLODED", "reason": "gradient norm 1e7"}
    text = script.render(json.loads(json.dumps(script.collect(protocol, found, machine))))
    assert "Note: on, seed 1 is left out, EXPLODED: gradient norm 1e7." in text

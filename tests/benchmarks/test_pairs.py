"""Comparisons of models on the same seeds and trajectories, and what every script does alike."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from pairs import compared, mean_error, pair_table
from script import Script, parser, settle

from ups.core.errors import UserError


def errors(scale: float, seeds: int = 3) -> dict[int, list[float | None]]:
    return {seed: list(scale * np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed)) for seed in range(seeds)}


def test_twice_the_error_is_a_ratio_of_two() -> None:
    found = compared(errors(0.2), errors(0.1), ("ours", "theirs"))
    assert found is not None
    assert found["ratio_of_means"] == pytest.approx(2)
    assert found["typical_ratio"] == pytest.approx(2)
    assert found["low"] <= 2 + 1e-9 <= found["high"] + 2e-9
    assert found["verdict"] == "theirs better"
    turned = compared(errors(0.1), errors(0.2), ("ours", "theirs"))
    assert turned is not None
    assert turned["verdict"] == "ours better"
    assert turned["difference"] == pytest.approx(-found["difference"])


def test_a_model_is_not_better_than_itself() -> None:
    found = compared(errors(0.1), errors(0.1), ("ours", "theirs"))
    assert found is not None
    assert not found["decided"]
    assert found["verdict"] == "undecided, the interval includes zero"


def test_only_common_seeds_are_compared_and_only_finite_errors() -> None:
    ours, theirs = errors(0.1), errors(0.2, seeds=2)
    found = compared(ours, theirs, ("ours", "theirs"))
    assert found is not None
    assert found["seeds"] == [0, 1]
    assert compared(ours, errors(0.2, seeds=1), ("ours", "theirs")) is None
    theirs[0][3] = None
    assert compared(ours, theirs, ("ours", "theirs")) is None
    assert mean_error(theirs[0]) == float("inf")


def test_a_table_without_rows_says_why() -> None:
    assert pair_table(["pair"], []) == "Too few runs completed to compare them."
    found = compared(errors(0.1), errors(0.2), ("ours", "theirs"))
    assert found is not None
    assert "| ours / theirs | 0.5 | 0.5 (" in pair_table(["pair"], [(["ours / theirs"], found)])


def options(folder: Path, *words: str) -> argparse.Namespace:
    args = parser("A benchmark.", "example").parse_args(["--work", str(folder), *words])
    return settle(args)


def test_a_trial_run_stays_out_of_the_results(tmp_path: Path) -> None:
    script = Script("example", lambda args, work: {"value": 7}, lambda request, folder: {}, lambda data: f"{data}")
    script.run(options(tmp_path, "--quick"))
    assert json.loads((tmp_path / "quick" / "example.json").read_text()) == {"value": 7}
    assert "<!-- begin example -->\n{'value': 7}" in (tmp_path / "quick" / "example.md").read_text()


def test_a_report_is_made_of_what_was_measured(tmp_path: Path) -> None:
    def refuses(args: argparse.Namespace, work: Path) -> dict[str, int]:
        raise AssertionError("nothing is to be measured")

    script = Script("example", refuses, lambda request, folder: {}, lambda data: f"value {data['value']}")
    args = options(tmp_path, "--report-only", "--out", str(tmp_path / "a.json"), "--results", str(tmp_path / "a.md"))
    with pytest.raises(UserError, match="run without --report-only first"):
        script.run(args)
    (tmp_path / "a.json").write_text('{"value": 8}')
    script.run(args)
    assert "value 8" in (tmp_path / "a.md").read_text()


def test_what_was_given_is_kept(tmp_path: Path) -> None:
    assert options(tmp_path).seeds == [0, 1, 2]
    assert options(tmp_path, "--quick").seeds == [0, 1]
    assert options(tmp_path, "--quick", "--seeds", "5").seeds == [5]

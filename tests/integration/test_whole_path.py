"""From a space to a golden YAML through the command line, with the real trainer: what `make demo` does, in seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from tune.cli import app
from ups.cli.terminal import run_app
from ups.config import load_config
from ups.evaluation.runs import load_result

LR = "stages.operator.optimizer.lr"
SPACE = {
    "base": "base.yaml",
    "space": {LR: {"choice": [3.0e-3, 1.0e-2]}, "latent.dim": {"choice": [4, 8]}},
    "strategy": {"trials": 4, "seed": 1, "milestones": {"operator": [0.5, 1]}},
    "resources": {"concurrency": 2},
    "confirm": {"top": 1, "seeds": 2},
}


def ups(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, a base that has hardly learned, and a space."""
    shutil.copy(tiny["task"]["files"][0], tmp_path / "data.h5")
    stage = {**tiny["stages"]["operator"], "epochs": 20, "optimizer": {"lr": 5e-4}}
    base = {**tiny, "task": {**tiny["task"], "files": ["data.h5"]}, "stages": {"operator": stage}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("ray_session")
def test_search_promote_report_and_the_golden_repeats(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ups("search", "space.yaml", "--out", "study", "--quiet") == 0
    assert ups("search", "space.yaml", "--out", "study") == 2
    assert "--resume" in capfd.readouterr().err
    other = {**SPACE, "space": {LR: {"choice": [1.0e-3]}}}
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    assert ups("search", "other.yaml", "--out", "study", "--resume") == 2
    assert len(capfd.readouterr().err.splitlines()) == 1

    # forced, since four trials of a second each need not have found anything
    assert ups("promote", "study", "--out", "golden.yaml", "--force") == 0
    golden = load_config("golden.yaml")
    assert golden.provenance is not None
    story = golden.provenance
    assert golden.runtime.seed == story["expected"]["seed"] == story["seeds"][0]
    assert set(story["changed"]) <= {LR, "latent.dim"}
    before = Path("golden.yaml").read_bytes()
    assert ups("promote", "study", "--out", "golden.yaml") == 2
    assert "--replace" in capfd.readouterr().err
    assert Path("golden.yaml").read_bytes() == before

    assert ups("train", "golden.yaml", "--out", "again") == 0
    assert load_result(Path("again")).score == story["expected"]["validation_rollout_nrmse"]
    report = json.loads(Path("again/report.json").read_text())
    assert report["metrics"]["rollout_nrmse"] == pytest.approx(story["expected"]["test_rollout_nrmse"], rel=1e-6)
    assert ups("report", "study") == 0
    assert "Confirmation" in (folder / "study" / "report.html").read_text()


def test_damaged_data_is_one_line_and_nothing_is_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "data.h5").read_bytes()

    def refused(*words: str) -> None:
        before = sorted(folder.iterdir())
        for command in (["train", "base.yaml", "--out", "run"], ["search", "space.yaml", "--out", "study"]):
            assert ups(*command) == 2
            error = capfd.readouterr().err
            assert len(error.splitlines()) == 1
            assert all(word in error for word in ("data.h5", *words)), error
        left = [path for path in sorted(folder.iterdir()) if path not in before]
        assert left == [], "half-written folders"

    (folder / "data.h5").write_bytes(whole[: len(whole) // 2])
    refused()
    (folder / "data.h5").write_bytes(whole)
    with h5py.File(folder / "data.h5", "r+") as file:
        file["tensor"][3, 2, 1] = np.nan
    refused("NaN")
    (folder / "data.h5").unlink()
    refused("no such file")

"""A search over a later stage with the real trainer: what lies above it is trained once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tune.cli import app
from tune.study import load_study
from ups.cli.terminal import run_app

SPACE = {
    "base": "base.yaml",
    "space": {"stages.diff_residual.tau_sampling": {"choice": ["uniform", "stratified"]}},
    "strategy": {"sampler": "grid", "milestones": {"operator": [0.5, 1], "diff_residual": [0.5, 1]}},
    "resources": {"concurrency": 1},
}


@pytest.fixture
def folder(tmp_path, tiny, monkeypatch):
    shutil.copy(tiny["task"]["files"][0], tmp_path / "data.h5")
    later = {"epochs": 1, "windows_per_trajectory": 2, "batch_size": 16, "validations": 2}
    stages = {"operator": {**tiny["stages"]["operator"], "epochs": 12}, "diff_residual": later}
    corrector = {"mixer": "conv", "depth": 1, "hidden_dim": 16}
    base = {**tiny, "task": {**tiny["task"], "files": ["data.h5"]}, "stages": stages, "corrector": corrector}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials(study):
    assert run_app(app, ["trials", study, "--json", f"{study}.json"]) == 0
    with open(f"{study}.json") as stream:
        return json.load(stream)


@pytest.mark.usefixtures("ray_session")
def test_a_stage_is_trained_once_for_all_trials_and_studies_that_share_a_store(folder, capfd):
    assert run_app(app, ["search", "space.yaml", "--out", "first", "--quiet"]) == 0
    first = trials("first")
    assert [row["state"] for row in first] == ["COMPLETE", "COMPLETE"]
    assert [row["reused_stages"] for row in first] == [[], ["operator"]]
    assert [row["params"]["stages.diff_residual.tau_sampling"] for row in first] == ["stratified", "uniform"]
    # another study, another seed of the search: all of it is in the store by now
    assert run_app(app, ["search", "space.yaml", "--out", "second", "--store", "first/store", "--quiet"]) == 0
    second = trials("second")
    assert [row["reused_stages"] for row in second] == [["operator", "diff_residual"]] * 2
    assert [row["score"] for row in second] == [row["score"] for row in first]
    # what a trial is spared is what whoever trained the stage has spent on it
    spent, spared = load_study(Path("first")).trials, load_study(Path("second")).trials
    assert sum(spared[0].reused_seconds.values()) == pytest.approx(spent[0].seconds)
    assert spent[1].reused_seconds == {"operator": spared[0].reused_seconds["operator"]}
    assert not (folder / "second" / "store").exists()
    capfd.readouterr()

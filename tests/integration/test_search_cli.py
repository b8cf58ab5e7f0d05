"""`ups search` and `ups trials` with the real trainer: tiny models on 24 trajectories."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml

from tune.cli import app
from ups.cli.terminal import run_app
from ups.evaluation.runs import load_result

LR = "stages.operator.optimizer.lr"
SPACE = {
    "base": "base.yaml",
    "space": {LR: {"choice": [0.01, 10.0]}, "latent.tokens": {"choice": [4, 8, 64]}},
    "strategy": {"trials": 6, "sampler": "random", "seed": 2, "milestones": {"operator": [0.5, 1]}},
    "resources": {"concurrency": 2},
}


@pytest.fixture
def folder(tmp_path, tiny, monkeypatch):
    """A working directory with a base, its data as a relative path, and a space."""
    shutil.copy(tiny["task"]["files"][0], tmp_path / "data.h5")
    # long enough for the gradient guard to see an explosion before the first validation does
    stage = {**tiny["stages"]["operator"], "epochs": 16, "validations": 2}
    base = {**tiny, "task": {**tiny["task"], "files": ["data.h5"]}, "stages": {"operator": stage}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ups(*arguments):
    return run_app(app, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("ray_session")
def test_an_exploding_trial_is_an_outcome_and_the_search_goes_on(folder, capfd):
    assert ups("search", "space.yaml", "--out", "study", "--json") == 0
    printed = capfd.readouterr()
    summary = json.loads(printed.out)
    assert summary["states"].get("EXPLODED"), printed.err
    assert summary["states"].get("INFEASIBLE")
    assert summary["best"]["params"][LR] == 0.01
    assert len(printed.err.splitlines()) == 6  # a line for every trial, and none of Ray's
    assert ups("trials", "study", "--json", "trials.json", "--top", "3") == 0
    rows = json.loads((folder / "trials.json").read_text())
    assert [row["number"] for row in rows] == list(range(6))
    keys = {"number", "state", "score", "reason", "params", "seconds", "reused_stages", "metrics"}
    assert all(set(row) == keys for row in rows)
    for row in rows:
        run = folder / "study" / "runs" / f"{row['number']:04d}"
        if row["state"] == "INFEASIBLE":
            assert row["params"]["latent.tokens"] == 64
            assert "latent.tokens: at most one token for each of the 32 cells, got 64" in row["reason"]
            assert not run.exists()  # it took no worker
        elif row["state"] == "EXPLODED":
            assert row["params"][LR] == 10.0
            assert re.search(r"gradient norm \S+ at step \d+ of operator", row["reason"])
        elif row["state"] == "COMPLETE":
            assert row["score"] == load_result(run).score
            assert not (run / "report.json").exists()  # a search never reads the test trajectories
    assert {row["state"] for row in rows if row["params"].get(LR) == 0.01} <= {"COMPLETE", "INFEASIBLE", "PRUNED"}


@pytest.mark.usefixtures("ray_session")
def test_a_search_in_which_everything_explodes_says_so_and_fails(folder, capfd):
    space = {
        **SPACE,
        "space": {LR: {"float": [10.0, 1000.0], "log": True}},
        "strategy": {**SPACE["strategy"], "trials": 3},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    base = yaml.safe_load((folder / "base.yaml").read_text())
    base["stages"]["operator"]["optimizer"] = {"lr": 10.0}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    assert ups("search", "space.yaml", "--out", "study", "--quiet") == 1
    printed = capfd.readouterr()
    assert "3 of 3 trials" in printed.out
    assert len(printed.err.splitlines()) == 1
    assert "every trial ended EXPLODED, such as: " in printed.err


def test_a_preview_trains_nothing_and_writes_nothing(folder, capfd):
    before = sorted(folder.iterdir())
    assert ups("search", "space.yaml", "--preview") == 0
    printed = capfd.readouterr().out
    assert sum(line.startswith("│ ") and line[2].isdigit() for line in printed.splitlines()) == 10
    assert "│ base" in printed
    assert "INFEASIBLE: latent.tokens" in printed
    assert "6 trials would take about" in printed
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["space.yaml", "latent.tokns=4"], "latent.tokns: unknown key; did you mean 'latent.tokens'?"),
        (["space.yaml", "latent.tokens=0"], "latent.tokens: input should be greater than or equal to 1, got 0"),
        (["space.yaml", "latent.tokens"], "latent.tokens: expected path=value"),
        (["space.yaml", "task.files=[gone.h5]"], "gone.h5"),
        (["space.yaml", "task.train=500"], "data.h5"),
        (["space.yaml", "latent.tokens=64"], "latent.tokens: at most one token for each of the 32 cells, got 64"),
        (["space.yaml", "--time-budget", "soon"], "budget.time: a duration is written like 90s"),
        (["space.yaml", "--trials", "0"], "strategy.trials"),
        (["space.yaml", "--out", "base.yaml/study"], "base.yaml/study: cannot be written"),
        (["space.yaml", "stages.operator.validations=3"], "strategy.milestones.operator: must be multiples of 1/3"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(folder, capfd, arguments, line):
    before = sorted(folder.iterdir())
    assert ups("search", *arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert line in printed.err
    assert sorted(folder.iterdir()) == before


def test_trials_of_no_study_is_one_line(folder, capfd):
    assert ups("trials", folder) == 2
    assert "no study here" in capfd.readouterr().err

"""Only equal protocols are ranked together; a study counts once, by what it promoted."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tune import leaderboard
from tune.leaderboard import leaderboard_csv, leaderboard_html, leaderboard_table, load_leaderboard
from tune.study import StudyFolder, TrialRecord
from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.types import Status

PROTOCOL = {
    "equation": "burgers",
    "files": ["a.h5"],
    "split": "test",
    "data": "f00d",
    "trajectories": 4,
    "cells": 32,
    "frames": 13,
    "dt": 0.1,
    "given_frames": 1,
    "predicted_frames": 12,
    "parameters": [{"nu": 0.01}],
}


def write_run(folder: Path, error: float | None, *, provenance: dict | None = None, **protocol) -> None:
    folder.mkdir(parents=True)
    metrics = {"rollout_nrmse": error, "mean_rollout_nrmse": 0.9}
    report = {"metrics": metrics, "protocol": {**PROTOCOL, **protocol}, "cost": {"parameters": 500.0}}
    (folder / "report.json").write_text(json.dumps(report))
    result = {"status": "COMPLETE", "reason": "", "score": 0.2, "milestones": {}, "seconds": 60.0, "parameters": 500}
    (folder / "result.json").write_text(json.dumps({**result, "folder": None, "reused_stages": []}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"provenance": provenance}))


def trial(number: int, score: float) -> TrialRecord:
    return TrialRecord(number, Status.COMPLETE, score, "", {}, 100.0, (), {}, 700)


@pytest.fixture
def below(tmp_path, monkeypatch):
    """Three runs, one of them at other cells, and two studies of which one has promoted."""
    write_run(tmp_path / "a", 0.3)
    write_run(tmp_path / "deep" / "er" / "b", 0.1, files=["copy_of_a.h5"], provenance={"confirmed": True})
    write_run(tmp_path / "c", 0.05, cells=64)
    write_run(tmp_path / "diverged", None)
    for name in ("promoted", "fresh"):
        # what is inside of a study is not on the list
        write_run(tmp_path / name / "confirm" / "trial1-s5", 0.2)
        write_run(tmp_path / name / "runs" / "0001", 0.01)
        (tmp_path / name / "study.yaml").write_text("made up")
    promotion = {
        "winner": "trial 1",
        "confirmed": False,
        "test": {"base": {"5": 0.5}, "trial 1": {"5": 0.15, "6": 0.25}},
        "contenders": [{"name": "trial 1", "runs": [{"folder": "trial1-s5"}]}],
    }
    (tmp_path / "promoted" / "promotion.json").write_text(json.dumps(promotion))
    task = {"equation": "burgers", "files": ["a.h5"], "train": 8, "validation": 2, "test": 4}
    base = RunConfig.parse({"task": task})
    search = leaderboard_search()
    monkeypatch.setattr(
        leaderboard, "load_study", lambda folder: StudyFolder(folder, search, base, (trial(0, 0.4), trial(1, 0.3)))
    )
    return tmp_path


def leaderboard_search():
    from tune.space import SearchConfig

    space = {"stages.operator.optimizer.lr": {"float": [1e-5, 1.0], "log": True}}
    return SearchConfig.parse({"base": "configs/base.yaml", "space": space})


def test_equal_trajectories_are_ranked_together_and_others_apart(below):
    board = load_leaderboard(below)
    names = [[entry.folder.name for entry in group] for group in board.groups]
    # the file's name does not matter, its content does; what diverged is last
    assert sorted(names) == [["b", "promoted", "a", "diverged"], ["c"]]
    assert [entry.folder.name for entry in board.untested] == ["fresh"]
    (_, study, *_) = next(group for group in board.groups if len(group) > 1)
    assert study.test == pytest.approx(0.2)
    assert (study.validation, study.seconds, study.kind) == (0.3, 200.0, "study, trial 1")
    assert study.golden == "not confirmed"


def test_every_form_has_every_entry(below):
    board = load_leaderboard(below)
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(board))))
    assert len(rows) == 6
    by_name = {Path(row["folder"]).name: row for row in rows}
    assert by_name["b"]["rank"] == "1"
    assert by_name["b"]["golden"] == "confirmed"
    assert by_name["b"]["protocol"] == by_name["a"]["protocol"] != by_name["c"]["protocol"]
    assert by_name["fresh"]["rank"] == by_name["fresh"]["test_rollout_nrmse"] == ""
    console = Console(file=io.StringIO(), width=200)
    console.print(leaderboard_table(board))
    page = leaderboard_html(board, below)
    for name in by_name:
        assert name in console.file.getvalue()
        assert name in page
    assert "not finite" in page
    assert "data:image/png;base64," in page


def test_what_cannot_be_read_is_said_and_harms_nothing_else(below):
    (below / "a" / "report.json").write_text("{}")
    board = load_leaderboard(below)
    assert [path.name for path in board.unread] == ["a"]
    assert "not a report" in leaderboard_html(board, below)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        load_leaderboard(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load_leaderboard(tmp_path / "nowhere")

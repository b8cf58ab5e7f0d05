"""Wrong command lines of every command: each is answered by one line that names the value and the remedy, and by 2.

Nothing is trained here and no Ray is started: all of them are refused before.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tune.checks import load_plan_from_space
from tune.cli import app
from ups.cli.terminal import run_app
from ups.core.types import RunResult, Status
from ups.evaluation.evaluate import Report
from ups.evaluation.report import save_report

LR = "stages.operator.optimizer.lr"
RANGE = {"float": [1.0e-3, 1.0e-2], "log": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """A folder with data, a config, spaces, a study that has not begun, and things that are none of these."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copy(tiny["task"]["files"][0], folder / "data.h5")
    write(folder, "base.yaml", {**tiny, "task": {**tiny["task"], "files": ["data.h5"]}})
    write(folder, "space.yaml", space_of({LR: RANGE}))
    write(folder, "unknown.yaml", space_of({"stages.operator.optimizer.learning_rate": RANGE}))
    write(folder, "nan.yaml", space_of({LR: {"float": [1.0e-3, float("nan")]}}))
    write(folder, "backwards.yaml", space_of({LR: {"float": [0.1, 0.01]}}))
    write(
        folder, "late.yaml", space_of({LR: RANGE}, objective=[{"metric": "rollout_nrmse"}, {"metric": "inference_ms"}])
    )
    write(folder, "old.yaml", {"model": {"surprise": 3}})
    (folder / "list.yaml").write_text("- 1\n- 2\n")
    (folder / "text.h5").write_text("no HDF5")
    (folder / "no_report.json").write_text("[1, 2]")
    for name in ("folder", "folder.png"):
        (folder / name).mkdir()
    for name, status, cells in (("exploded", "EXPLODED", 0), ("unread", "COMPLETE", 0), ("coarse", "COMPLETE", 16),
                                ("fine", "COMPLETE", 32)):  # fmt: skip
        run_of(folder / name, status, cells)
    plan = load_plan_from_space(str(folder / "space.yaml")).to_yaml()
    for name, journal in (("study", ""), ("damaged", "half a line\nand another\n")):
        (folder / name).mkdir()
        (folder / name / "study.yaml").write_text(plan)
        if journal:
            (folder / name / "journal.log").write_text(journal)
    return folder


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(yaml.safe_dump(content))


def space_of(domains: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"base": "base.yaml", "space": domains, "strategy": {"trials": 4}, **more}


def run_of(folder: Path, status: str, cells: int) -> None:
    """A run that ended so, with a report on so many cells."""
    folder.mkdir()
    result = RunResult(Status(status), "boom", 0.1, {}, 1.0, 5, folder)
    (folder / "result.json").write_text(json.dumps({**asdict(result), "folder": None}))
    (folder / "config.yaml").write_text("baseline: {kind: fno}")
    if cells:
        report = Report({"rollout_nrmse": 0.1}, {"equation": "burgers", "split": "test", "cells": cells})
        save_report(report, folder / "report.json")


LINES = {
    # words that are no command, no option, or too few
    "trian base.yaml": ("'trian'", "Did you mean 'train'"),
    "data inspcet data.h5": ("'inspcet'", "Did you mean 'inspect'"),
    "train": ("Missing argument 'CONFIG'", "`ups train --help`"),
    "train base.yaml --resmue": ("--resmue", "--resume"),
    "search space.yaml --trails 3": ("--trails", "--trials"),
    "rollout study": ("Missing option '--out'", "`ups rollout --help`"),
    "store gc study": ("Missing option '--max-size'",),
    "doctor now": ("unexpected extra argument", "now", "`ups doctor --help`"),
    # values of options
    "train base.yaml --workers 0": ("--workers", "greater than or equal to 1", "'0'"),
    "train base.yaml --workers two": ("--workers", "valid integer", "'two'"),
    "trials study --top 0": ("--top", "greater than or equal to 1", "'0'"),
    "evaluate study --split tset": ("--split", "'tset'", "'test'"),
    "rollout study --trajectory -1 --out a.png": ("--trajectory", "greater than or equal to 0", "'-1'"),
    "rollout study --out a.jpg": (".png or .h5", "a.jpg"),
    "dashboard nowhere": ("nowhere", "study"),
    "leaderboard nowhere": ("nowhere", "no such folder", "holds runs or studies"),
    "compare study --out a.pdf": (".html, .png or .svg", "a.pdf"),
    "search space.yaml --trials -3": ("strategy.trials", "greater than or equal to 1", "-3"),
    "search space.yaml --time-budget -2h": ("budget.time", "90s, 30m, 2h", "above zero", "'-2h'"),
    "search space.yaml --gpus-per-worker 1.5": ("gpus_per_worker", "whole number", "1.5"),
    "search space.yaml --gpus-per-worker nan": ("--gpus-per-worker", "greater than or equal to 0", "'nan'"),
    "search space.yaml --study-storage mysql://host/db": ("postgresql://", "mysql://"),
    "search space.yaml --store s3://key:secret@bucket/path": ("credentials", "AWS_ACCESS_KEY_ID"),
    "doctor --store s3://key:secret@bucket/path": ("credentials", "AWS_ACCESS_KEY_ID"),
    "promote study --out g.yaml --top 0": ("--top", "at least 1", "0"),
    "promote study --out g.yaml --seeds 1": ("--seeds", "at least 2", "1"),
    "store gc study --max-size=-5GB": ("--max-size", "500MB, 50GB", "'-5GB'"),
    "data generate heat --out a.h5": ("EQUATION", "burgers, advection", "'heat'"),
    "data generate burgers --nu nan --out a.h5": ("nu", "positive", "nan"),
    "data generate burgers --dt -1 --out a.h5": ("dt", "positive", "-1"),
    "data generate burgers --beta 1 --out a.h5": ("--beta", "its parameter is --nu"),
    "data generate burgers --cells 1 --out a.h5": ("cells", "at least", "1"),
    # keys and values of configs
    "train base.yaml latent.tokns=4": ("latent.tokns: unknown key", "did you mean 'latent.tokens'"),
    "train base.yaml stages.operator.optimizer.learning_rate=1": ("learning_rate", "optimizer has beta2, lr, name"),
    "train base.yaml latent.tokens": ("latent.tokens", "expected path=value"),
    "train base.yaml latent.tokens=-4": ("latent.tokens", "greater than or equal to 1", "-4"),
    f"train base.yaml {LR}=.nan": (LR, "finite number", "nan"),
    "train base.yaml operator.kind=unet": ("'unet'", "'pdet_stack', 'pdet_unet'"),
    "train base.yaml latent.tokens=4 latent.tokens=8": ("latent.tokens", "given twice", "4", "8"),
    "train base.yaml task.train=100": ("data.h5", "100 train", "24 available"),
    "config show base.yaml latent.tokns=3": ("latent.tokns", "did you mean 'latent.tokens'"),
    # spaces
    "search unknown.yaml": ("space.stages.operator.optimizer.learning_rate: unknown key", "has beta2, lr, name"),
    "search nan.yaml": (f"space.{LR}", "finite number", "nan"),
    "search backwards.yaml": (f"space.{LR}", "low end must be below", "[0.1, 0.01]"),
    "search late.yaml": ("strategy.scheduler", "inference_ms", "use scheduler: none"),
    f"search space.yaml {LR}=0.01": ("nothing is left to search",),
    # files and folders that are missing or something else
    "train burgers1d_smal": ("burgers1d_smal", "did you mean 'burgers1d_small'"),
    "train folder": ("folder: is a folder", "YAML file"),
    "train list.yaml": ("list.yaml", "mapping", "got list"),
    "train base.yaml task.files=[nowhere.h5]": ("nowhere.h5", "no such file"),
    "train base.yaml --out data.h5": ("data.h5", "not a run folder", "choose another"),
    "search nowhere.yaml": ("nowhere.yaml", "no such file", "there are: "),
    "search space.yaml --out study": ("study", "--resume"),
    "search space.yaml --store data.h5": ("data.h5: is a file", "choose another --store"),
    "search space.yaml --run study": ("study: no run here", "config.yaml is missing"),
    "evaluate nowhere": ("nowhere: no trained run here", "ups train"),
    "rollout folder --out a.png": ("folder: no trained run here", "ups train"),
    "compare study": ("study/report.json", "`ups evaluate study --json study/report.json`"),
    "compare no_report.json": ("no_report.json", "not a report"),
    "leaderboard folder --out a.pdf": (".csv or .html", "a.pdf"),
    "trials folder": ("folder: no study here", "study.yaml"),
    "trials study --json folder": ("--json", "'folder' is a directory"),
    "trials damaged": ("damaged/journal.log: damaged", "restore it"),
    "report nowhere": ("nowhere: no study here",),
    "report study --beside nowhere": ("nowhere: no finished run here", "result.json"),
    "report study --beside folder": ("folder: no finished run here", "result.json"),
    "report study --beside exploded": ("exploded: ended EXPLODED (boom)", "COMPLETE"),
    "report study --beside unread": ("unread/report.json", "`ups evaluate unread --json unread/report.json`"),
    "report study --beside coarse": ("--beside coarse", "than study", "cells 16 instead of 32", "frames and cells"),
    "report fine --beside coarse": ("--beside coarse", "than fine", "cells 16 instead of 32", "frames and cells"),
    "report study --out folder": ("folder: is a folder", "folder/report.html"),
    "promote folder --out g.yaml": ("folder: no study here",),
    "promote study --out base.yaml": ("base.yaml: exists already", "--replace"),
    "replay study": ("deterministic", "strategy.batch"),
    "store ls folder": ("folder: no artifact store here", "RUN/store"),
    "data generate burgers --initial text.h5 --out a.h5": ("text.h5", "not an HDF5 file"),
    "data generate burgers --initial data.h5 --out data.h5": ("data.h5", "would be replaced", "write another"),
    "data generate burgers --out folder": ("folder: is a folder",),
    "data inspect text.h5": ("text.h5", "not an HDF5 file"),
    "config diff base.yaml nowhere.yaml": ("nowhere.yaml", "no such file"),
    "config import old.yaml": ("old.yaml", "model.surprise"),
    "config import old.yaml --out base.yaml": ("base.yaml exists already", "choose another"),
    # options that contradict each other
    "evaluate study --data data.h5 --split test": ("--split", "--data", "give one of them"),
}
"""a line -> what its answer has to say"""


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_is_answered_by_one_helpful_line(
    line: str, made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    before = sorted(made.rglob("*"))
    code = run_app(app, line.split())
    printed = capfd.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    assert re.fullmatch(r"ups: \S.*\n", printed.err), printed.err
    assert all(words in printed.err for words in LINES[line]), printed.err
    assert "secret" not in printed.err
    assert sorted(made.rglob("*")) == before, "nothing is left behind"


def test_every_command_that_reads_something_has_a_wrong_line() -> None:
    def commands(group: Any, prefix: tuple[str, ...] = ()) -> list[str]:
        below = getattr(group, "commands", None)
        if below is None:
            return [" ".join(prefix)]
        return [name for key, command in below.items() for name in commands(command, (*prefix, key))]

    for command in commands(typer.main.get_command(app)):
        assert any(line.startswith(command) for line in LINES), f"a wrong `ups {command}` is missing"

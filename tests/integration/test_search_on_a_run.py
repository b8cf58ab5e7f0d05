"""`ups search --run`: settings of the search at test time on a finished run, of which no stage is trained again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.cli import app
from tune.finished import check_trains_nothing
from tune.report import write_report
from tune.space import SearchConfig
from tune.study import Plan, load_study
from ups.cli.terminal import run_app
from ups.config import RunConfig, load_config
from ups.core.errors import ConfigError
from ups.core.types import Status
from ups.evaluation.runs import RESULT, load_result
from ups.run import train_run

STAGES = ["operator", "diff_residual"]
SPACE: dict[str, Any] = {
    "space": {
        "ttc.enabled": {"choice": [True]},
        "ttc.noise_std": {"float": [1.0e-3, 1.0e-1], "log": True, "when": {"ttc.enabled": True}},
        "ttc.candidates": {"choice": [2, 4], "when": {"ttc.enabled": True}},
    },
    "strategy": {"trials": 4, "startup_trials": 1, "scheduler": "none"},
    "resources": {"concurrency": 2},
}


@pytest.fixture(scope="module")
def config(tiny: dict[str, Any]) -> RunConfig:
    later = {"epochs": 1, "windows_per_trajectory": 2, "batch_size": 16, "validations": 2}
    # hardly trained, and with validations on which the usual milestones do not fall: there is something to gain
    stages = {"operator": {**tiny["stages"]["operator"], "epochs": 12, "validations": 3}, "diff_residual": later}
    corrector = {"mixer": "conv", "depth": 1, "hidden_dim": 16}
    return RunConfig.parse({**tiny, "stages": stages, "corrector": corrector})


@pytest.fixture(scope="module")
def trained(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    result = train_run(config, out, evaluate_on="none")
    assert result.status is Status.COMPLETE
    return out


@pytest.fixture
def folder(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the run and a space that has no base."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ups(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments])


def trials(study: str) -> list[dict[str, Any]]:
    assert ups("trials", study, "--json", f"{study}.json") == 0
    rows: list[dict[str, Any]] = json.loads(Path(f"{study}.json").read_text())
    return rows


@pytest.mark.usefixtures("ray_session")
def test_trials_find_every_stage_and_differ_in_what_they_search(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stored = sorted(path.name for path in (folder / "run" / "store").rglob("manifest.json"))
    assert ups("search", "space.yaml", "--run", "run", "--out", "study", "--quiet", "--trials", 2) == 0
    assert ups("search", "space.yaml", "--run", "run", "--out", "study", "--quiet", "--resume") == 0
    rows = trials("study")
    assert [row["state"] for row in rows] == ["COMPLETE"] * 4
    assert [row["reused_stages"] for row in rows] == [STAGES] * 4
    assert sorted(path.name for path in (folder / "run" / "store").rglob("manifest.json")) == stored
    assert not (folder / "study" / "store").exists()
    # trial 0 is the run as it is, without a search; what does not help is not deployed
    plain = load_result(folder / "run").score
    assert rows[0]["params"] == {}
    assert rows[0]["score"] == pytest.approx(plain, rel=1e-6)
    assert all(row["score"] <= rows[0]["score"] for row in rows)
    searched = [load_result(folder / "study" / "runs" / f"{row['number']:04d}").stages for row in rows]
    assert "inference" not in searched[0]
    assert len({stages["inference"]["score_after"] for stages in searched[1:]}) == 3
    assert len({row["score"] for row in rows}) > 1
    page = write_report(folder / "study").read_text()
    assert "stages done: operator, diff_residual, inference" in page
    capfd.readouterr()


@pytest.mark.usefixtures("ray_session")
def test_a_promoted_search_keeps_its_section(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    space = {**SPACE, "strategy": {**SPACE["strategy"], "sampler": "random"}}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    assert ups("search", "space.yaml", "--run", "run", "--out", "study", "--quiet", "--trials", 3) == 0
    best = load_study(folder / "study").best
    assert best is not None
    assert best.number > 0
    assert ups("promote", "study", "--out", "golden.yaml", "--top", 1, "--seeds", 2, "--force") == 0
    golden = load_config("golden.yaml")
    assert golden.ttc.enabled
    assert golden.ttc.noise_std == best.params["ttc.noise_std"]
    assert golden.ttc.candidates == best.params["ttc.candidates"]
    capfd.readouterr()


def test_a_preview_on_a_run_promises_no_training(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert ups("search", "space.yaml", "--run", "run", "--preview") == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "4 trials would take about" in printed
    assert "on one worker and train nothing" in printed
    assert sorted(folder.rglob("*")) == before


def unfinished(folder: Path) -> None:
    (folder / "run" / RESULT).unlink()


def exploded(folder: Path) -> None:
    path = folder / "run" / RESULT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "EXPLODED"}))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder / "run" / "store")


def widened(folder: Path) -> None:
    space = SPACE["space"] | {"latent.tokens": {"choice": [4, 8]}}
    (folder / "space.yaml").write_text(yaml.safe_dump({**SPACE, "space": space}))


def resampled(folder: Path) -> None:
    space = SPACE["space"] | {"inference.sampler_steps": {"choice": [2, 4]}}
    (folder / "space.yaml").write_text(yaml.safe_dump({**SPACE, "space": space}))


def nothing(folder: Path) -> None:
    return None


@pytest.mark.parametrize(
    ("change", "arguments", "line"),
    [
        (nothing, [], "space.yaml: base: required key is missing; name a config there, or give a finished run with"),
        (nothing, ["--run", "nowhere"], "nowhere: no run here (config.yaml is missing)"),
        (unfinished, ["--run", "run"], "run: no finished run here (result.json is missing)"),
        (exploded, ["--run", "run"], "run: ended EXPLODED, a search with --run needs a run that is COMPLETE"),
        (emptied, ["--run", "run"], "run/store: does not hold the stage operator of run, so every trial would train"),
        (nothing, ["--run", "run", "--store", "other"], "other: does not hold the stage operator of run"),
        (widened, ["--run", "run"], "space.latent.tokens: changes the stage operator, which would be trained again"),
        (resampled, ["--run", "run"], "space.inference.sampler_steps: changes the stage diff_residual, which would"),
        (nothing, ["--run", "run", "latent.tokens=4"], "latent.tokens: the base changes the stage operator, which"),
        (nothing, ["--run", "run", "ttc.enabled=false"], "nothing is left to search"),
    ],
)
def test_what_would_train_is_one_line(
    folder: Path, capfd: pytest.CaptureFixture[str], change: Any, arguments: list[str], line: str
) -> None:
    change(folder)
    before = sorted(folder.rglob("*"))
    assert ups("search", "space.yaml", "--out", "study", *arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert line in printed.err
    assert sorted(folder.rglob("*")) == before


def test_what_enters_no_stage_may_vary(folder: Path, config: RunConfig) -> None:
    def check(space: dict[str, Any], *start_from: RunConfig) -> None:
        names = tuple(f"start{number}" for number, _ in enumerate(start_from))
        search = SearchConfig.parse({"base": "run/config.yaml", "space": space, "start_from": names})
        check_trains_nothing(Plan(search, config, start_from), Path("run"), Path("run/store"))

    corrector = {"inference.corrector": {"choice": ["none", "diffusion"]}}
    check(corrector)
    # a stage that is left out is not trained; one that is added, or longer, is
    check({"stages.diff_residual.epochs": {"choice": [0, 1]}})
    with pytest.raises(ConfigError, match=r"space.stages.diff_residual.epochs: changes the stage diff_residual"):
        check({"stages.diff_residual.epochs": {"choice": [1, 2]}})
    # it has no effect on a stage that is off
    check({"inference.student_steps": {"choice": [1, 2]}})
    check(corrector, config.override({"ttc.enabled": True, "ttc.candidates": 4}))
    with pytest.raises(ConfigError, match=r"operator.depth: start0 changes the stage operator"):
        check(corrector, config.override({"operator.depth": 2}))

"""One browser for the session, and the studies whose pages it opens."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from looking import Browser
from made_up_search import CANDIDATES, EPOCHS, LR, THREE, MadeUpSearch

from tune.promotion import RECORD
from tune.space import SearchConfig
from tune.study import Plan, load_study
from ups.config import RunConfig
from ups.core.types import Status
from ups.run import train_run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which they all lie."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def run(place: Path, tiny: dict[str, Any]) -> Path:
    """A run that was trained for a second and evaluated."""
    out = place / "run"
    assert train_run(RunConfig.parse(tiny), out).status is Status.COMPLETE
    return out


@pytest.fixture(scope="session")
def study(place: Path, tiny: dict[str, Any], run: Path) -> Path:
    """A study of three stages with a noise floor, trials of every kind and a promotion whose winner is `run`."""
    folder = place / "study"
    strategy = {"trials": 40, "base_seeds": 3, "seed": 4, "milestones": {"operator": [0.25, 0.5, 1.0]}}
    search(folder, tiny, {"strategy": strategy})
    best = load_study(folder).best
    assert best is not None
    name = f"trial {best.number}"
    (folder / "confirm").mkdir()
    for contender in (f"trial{best.number}", "base"):
        os.symlink(run, folder / "confirm" / f"{contender}-s11")
    (folder / RECORD).write_text(json.dumps(promotion(name, dict(best.params))))
    return folder


@pytest.fixture(scope="session")
def pareto_study(place: Path, tiny: dict[str, Any], run: Path) -> Path:
    """A study of two objectives, of which nothing was promoted, and whose best trial is `run`."""
    folder = place / "pareto"
    objective = [{"metric": "rollout_nrmse"}, {"metric": "inference_ms"}]
    search(
        folder, tiny, {"strategy": {"trials": 15, "scheduler": "none", "startup_trials": 15}, "objective": objective}
    )
    found = load_study(folder)
    assert found.best is not None
    os.symlink(run, found.run_folder(found.best))
    return folder


@pytest.fixture(scope="session")
def folder(run: Path, study: Path, pareto_study: Path, place: Path) -> Path:
    """With a run, a study that was promoted and one that was not in it."""
    return place


def search(folder: Path, tiny: dict[str, Any], words: Mapping[str, Any]) -> None:
    """Made up: what scores are is a formula, what the driver, the sampler and the journal do is real."""
    base = RunConfig.parse(tiny).override({"corrector.hidden_dim": 16})
    config = SearchConfig.parse({"base": "base.yaml", "space": THREE, **words})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        with MadeUpSearch(Plan(config, base), folder, made_up_score) as made:
            made.run()


def made_up_score(values: Mapping[str, Any], stage: str) -> float | Status:
    rate = math.log10(values[LR])
    if rate > 0.5:
        return Status.EXPLODED
    if rate > 0.2:
        return Status.NOT_FINITE
    score = 0.03 * (1.2 + abs(rate + 2)) * (1 + 0.02 * (values["runtime.seed"] % 5))
    if stage != "operator":
        score *= 1 - 0.03 * values[EPOCHS]
    if stage == "inference":
        score *= 1 - 0.02 * values[CANDIDATES]
    return score


def promotion(winner: str, params: dict[str, Any]) -> dict[str, Any]:
    """What `ups promote` writes down, made up."""

    def contender(name: str, scores: tuple[float, float], changed: dict[str, Any]) -> dict[str, Any]:
        short = name.replace(" ", "")
        runs = [
            {"seed": seed, "status": "COMPLETE", "score": score, "reason": "", "folder": f"{short}-s{seed}"}
            for seed, score in zip((11, 12), scores, strict=True)
        ]
        mean = sum(scores) / 2
        return {"name": name, "search_score": scores[0], "mean_score": mean, "changed": changed, "runs": runs}

    changed = {path: {"base": None, "here": value} for path, value in params.items()}
    return {
        "confirmed": True,
        "verdict": f"confirmed: {winner} beats the base",
        "winner": winner,
        "reference": "base",
        "seeds": [11, 12],
        "contenders": [contender(winner, (0.031, 0.033), changed), contender("base", (0.06, 0.07), {})],
        "comparison": {"improvement": 0.03, "low": 0.02, "high": 0.04, "per_seed": [0.03, 0.031], "trajectories": 4},
        "test": {winner: {"11": 0.032, "12": 0.034}, "base": {"11": 0.062, "12": 0.066}},
        "noise_floor": {"validation": 0.002, "test": 0.003},
        "test_reads": {"in_this_study": 1, "total": 1},
    }

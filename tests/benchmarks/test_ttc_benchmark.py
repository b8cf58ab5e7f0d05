"""Search at test time, measured: laws of the measurements on a tiny surrogate, and the report of synthetic ones."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training
import ttc as script
import ttc_jobs
import ttc_models
import ttc_report
import ttc_speed
from common import Job

from ups.config import RunConfig
from ups.core.integrators import INTEGRATORS
from ups.data.task import Task, load_task
from ups.evaluation.evaluate import batches
from ups.inference.rewards import FittedReward, FittedTerm
from ups.inference.search import Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Surrogate
from ups.run import build_run_surrogate

SEEDS = range(3)


@pytest.fixture
def task(tiny: dict[str, Any]) -> Task:
    return load_task(RunConfig.parse(tiny).task)


@pytest.fixture
def surrogate(tiny: dict[str, Any], task: Task) -> Surrogate:
    """Untrained: its operator is the identity, and what noise does to a latent is decoded all the same."""
    torch.manual_seed(0)
    return build_run_surrogate(RunConfig.parse(tiny), task).eval()


def test_errors_are_those_of_the_score(surrogate: Surrogate, task: Task) -> None:
    found = ttc_jobs.scored(task.test, ttc_jobs.of(surrogate))
    assert found["errors"] == pytest.approx(training.trajectory_errors(surrogate, task.test, "rollout"))


def test_the_best_of_more_candidates_is_no_worse(surrogate: Surrogate, task: Task) -> None:
    config = SearchConfig().override({"noise_std": 0.1, "candidates": 8})
    few = [errors for _, errors in ttc_jobs.drawn(surrogate, config.override({"candidates": 4}), task.test)]
    many = [errors for _, errors in ttc_jobs.drawn(surrogate, config, task.test)]
    for some, more in zip(few, many, strict=True):
        np.testing.assert_allclose(more[:, :4], some, rtol=1e-4)
    best = ttc_jobs._best_of(ttc_jobs.drawn(surrogate, config, task.test), [1, 2, 4, 8])
    assert best["1"] == 1
    assert best["1"] >= best["2"] >= best["4"] >= best["8"] > 0
    assert best["8"] < 1


def test_the_mean_of_one_candidate_is_the_plain_rollout(surrogate: Surrogate, task: Task) -> None:
    one = SearchConfig().override({"candidates": 1})
    fields_BTXC, parameters_BP = next(batches(task.test))
    plain = ttc_jobs.of(surrogate)(fields_BTXC, parameters_BP)
    for predict in (ttc_jobs.mean_of_candidates(surrogate, one), ttc_jobs.by_truth(surrogate, one)):
        torch.testing.assert_close(predict(fields_BTXC, parameters_BP), plain)


def test_the_solver_alone_is_the_one_in_the_residual_term(surrogate: Surrogate, task: Task) -> None:
    fields_BTXC, parameters_BP = next(batches(task.test))
    # a field without a mean does not move with the frame
    start_BXC = fields_BTXC[:, 0] - fields_BTXC[:, 0].mean(1, keepdim=True)
    rolled_BTXC = ttc_jobs.Integrated(surrogate).rollout(start_BXC, parameters_BP, 2)
    field_BX = start_BXC[..., 0]
    for number in range(2):
        field_BX = INTEGRATORS["burgers"](field_BX, parameters_BP[:, 0], surrogate.spec.dt, surrogate.spec.length)
        torch.testing.assert_close(rolled_BTXC[:, number, :, 0], field_BX, rtol=1e-3, atol=1e-5)
    assert ttc_jobs._mean(ttc_jobs.scored(task.test, ttc_jobs.of(ttc_jobs.Integrated(surrogate)))) < 0.1


def test_one_call_judges_what_many_calls_judge(surrogate: Surrogate, task: Task) -> None:
    reward = FittedReward((FittedTerm("residual", 1.0, 0.0, 1.0, 1.0, True),))
    step = ttc_speed._Step.enter(surrogate, SearchConfig().override({"noise_std": 0.1}), reward, task)
    alone = torch.cat([step.judged(number, 1).score_HK for number in range(3)], dim=1)
    torch.testing.assert_close(step.fresh().judged(0, 3).score_HK, alone)
    # a timed call must not find the equation solved by the call before it
    assert step.move.known_H
    assert not step.fresh().move.known_H


def test_the_parts_of_a_search_are_all_of_it(surrogate: Surrogate, task: Task) -> None:
    reward = FittedReward((FittedTerm("residual", 1.0, 0.0, 1.0, 1.0, True),))
    search = Search(SearchConfig(), reward)
    found = ttc_speed.overhead(surrogate, search, task, batch=3, steps=2, repeats=1)
    # eight candidates, and the latent that was encoded
    assert (found["operator_rows"], found["source_rows"], found["decoder_rows"]) == (3, 0, 27)
    assert sum(found["parts"].values()) == pytest.approx(1)
    assert {"encoder", "operator", "decoder", "reward", "drawing noise"} < found["parts"].keys()
    assert search.effort.steps > 0


def test_no_setting_asks_for_more_than_eight_evaluations() -> None:
    for name, setting in ttc_jobs.grid().items():
        config = SearchConfig().override(setting)
        assert config.candidates * config.beam_width <= 8, name
        assert config.horizon == 1 or config.max_evaluations <= 8, name
    assert len({json.dumps(setting, sort_keys=True) for setting in ttc_jobs.grid().values()}) == len(ttc_jobs.grid())


def test_the_reward_depends_on_the_draws_alone(surrogate: Surrogate, task: Task) -> None:
    """Settings of the same draws are compared by the same reward."""
    config = SearchConfig().override({"noise_std": 0.1, "reward.kind": "composite", "reward.residual": 1.0})
    first, second = (
        ttc_jobs.fit_search(surrogate, config.override(way), task.train).reward
        for way in ({"choice": "sample"}, {"choice": "token", "rounds": 2, "beam_width": 2, "candidates": 4})
    )
    assert first == second


# jobs


def test_another_model_is_measured_again(tmp_path: Path, tiny: dict[str, Any]) -> None:
    weights = tmp_path / "model" / "run" / "checkpoints" / "best.safetensors"
    weights.parent.mkdir(parents=True)
    trained = script.Trained(
        ttc_models.CASES[0],
        1,
        RunConfig.parse(tiny),
        Job("model", tmp_path / "model", {"kind": "train"}),
        Job("wide", tmp_path / "wide", {"kind": "train"}),
    )

    def request(kind: str = "select", **more: Any) -> Any:
        job = script.search_job(trained, kind, tmp_path, {"cpu": "a"}, "data", more)
        assert job.folder == tmp_path / f"{kind}_burgers_nu_0.01,_seed_1"
        return json.loads(json.dumps(job.request))

    weights.write_bytes(b"one")
    first = request(settings=ttc_jobs.grid())
    assert first == request(settings=ttc_jobs.grid())
    assert first != request(settings=ttc_jobs.grid(4))
    weights.write_bytes(b"two")
    assert first != request(settings=ttc_jobs.grid())


def test_what_a_search_is_told_does_not_train_again(tmp_path: Path, tiny: dict[str, Any]) -> None:
    config = RunConfig.parse(tiny)
    others = [config.override({"ttc.candidates": 3}), config.override({"inference.temperature": 0.25})]
    first, *rest = (
        ttc_models.training_job(Namespace(), "a, seed 0", each, tmp_path, {}).request for each in (config, *others)
    )
    assert all(each == first for each in rest)
    assert (
        first != ttc_models.training_job(Namespace(), "a", config.override({"runtime.seed": 7}), tmp_path, {}).request
    )


def test_quick_and_full_settings() -> None:
    quick, full = script._arguments(["--quick"]), script._arguments([])
    assert (quick.seeds, full.seeds) == ([0, 1], [0, 1, 2])
    assert full.counts == [2, 4, 8, 16, 32]
    assert (full.seconds, full.diffusion_seconds, full.distill_seconds) == (200, 80, 40)
    assert (full.wide_seconds, full.wide_hidden_dim, full.members) == (365, 96, 8)
    assert quick.seconds < full.seconds
    assert quick.counts != full.counts


def test_validation_selects_by_the_mean_over_seeds() -> None:
    def answer(**errors: float | None) -> dict[str, Any]:
        return {"settings": {name: {"error": error} for name, error in errors.items()}}

    assert script.selected([answer(a=1.0, b=2.0, c=0.1), answer(a=3.0, b=1.0, c=None)]) == "b"
    assert script.selected([answer(a=None)]) is None


# report


def row(scale: float, seed: int) -> dict[str, Any]:
    return {"errors": list(scale * np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed)), "ms_per_trajectory": 10 * scale}


def told(scale: float | None, seed: int) -> dict[str, Any]:
    if scale is None:
        return {"error": None, "reason": "nothing tells candidates apart"}
    return {"error": scale * (1 + 0.01 * seed), "ms_per_trajectory": 3.0, "decoder_per_step": 9.0}


def run(seed: int, gain: float) -> dict[str, Any]:
    common = {"core_share": 1.0, "commit": "abc1234", "date": "2025-01-01"}
    stage = {"status": "COMPLETE", "reason": "", "score": 0.1, "parameters": 10, "core_share": 1.0}
    plain = {name: {split: told(1.0, seed) for split in ("validation", "test")} for name in ("deployed", "diffusion 1")}
    one_step = {"noise 0.004": {"2": 0.9, "4": 0.8}}
    rollout = {"noise 0.004": {"sample 4": 0.9, "token 4": 0.5}}
    settings = {"noise 0.004, token, 1 rounds": told(gain, seed), "student 1, sample, 2 rounds": told(0.99, seed)}
    scales = {"ttc": gain, "plain": 1.0, "wide operator": 1.5, "ensemble, student 1": 0.98}
    scales["solver of the residual term, 256 cells"] = 0.1
    terms = [{"name": "residual", "training": 0.7, "here": 0.6, "used": True, "reason": ""}]
    test = {
        "rows": {name: row(scale, seed) for name, scale in scales.items()},
        "budget": {"1": told(1.0, seed), "2": told(gain, seed)},
        "rewards": {"residual": told(gain, seed), "adaptive, without residual": told(None, seed)},
        "terms": [*terms, {"name": "the reward", "training": None, "here": 0.6, "used": True, "reason": ""}],
    }
    return {
        **{"seed": seed, "train": stage, "wide": stage, "test": test | common},
        "oracle": {"correction": "none", "plain": plain, "one_step": one_step, "rollout": rollout, **common},
        "select": {"plain": 1.0 + 0.01 * seed, "settings": settings, **common},
    }


def collected(gain: float) -> dict[str, Any]:
    protocol = {
        **{"cells": 256, "frames": 41, "dt": 0.05, "train": 8, "validation": 8, "test": 8, "seeds": list(SEEDS)},
        **{"seconds": {"operator": 200.0}, "wide_seconds": 365.0, "wide_hidden_dim": 96, "members": 8},
        **{"counts": [2, 4], "oracle_trajectories": 4},
    }
    case = {
        **{"name": "burgers nu 0.01", "equation": "burgers", "selected": "noise 0.004, token, 1 rounds"},
        **{"best_plain": "deployed", "setting": {"noise_std": 0.004}},
        "runs": [run(seed, gain) for seed in SEEDS],
    }
    names = {"source": "noise", "reward": "with residual"}
    one_call = {**names, "candidates": 32, "together_ms": 1.0, "one_by_one_ms": 10.0, "ratio": 10.0}
    overhead = {**names, "batch": 64, "search_ms": 12.0, "calls_ms": 10.0, "ratio": 1.2, "ratio_with_encoder": 1.1}
    overhead["parts"] = {"decoder": 0.7, "the rest": 0.3}
    speed = {"case": "burgers nu 0.01", "seed": 0, "one_call": [one_call], "overhead": [overhead]}
    speed |= {"core_share": 1.0, "commit": "abc1234", "date": "2025-01-01"}
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    return json.loads(json.dumps(ttc_report.collect(protocol, [case], speed, machine), allow_nan=False))


def test_the_verdict_follows_ratio_and_interval() -> None:
    text = ttc_report.render(collected(0.9))
    assert "has 0.9 times the error of the plain rollout, search better; the aim" in text
    assert "is reached." in text
    assert "is missed." in ttc_report.render(collected(0.97))
    assert "plain rollout, as deployed better" in ttc_report.render(collected(1.1))


def test_the_solver_in_the_reward_is_named_with_what_it_scores_alone() -> None:
    text = ttc_report.render(collected(0.9))
    assert "the residual term contains a solver of the equation on the task's grid" in text
    assert "9 times the error at 9 times the wall time; without that term no reward was usable in any run." in text


def test_selection_oracle_and_speed_are_told() -> None:
    text = ttc_report.render(collected(0.9))
    assert "| noise, token | noise 0.004, token, 1 rounds (selected) | 0.9 |" in text
    assert "noise, token 0.5 (noise 0.004, token 4)" in text
    assert "| 10 | reached |" in text
    assert "| 1.2 | 1.1 | missed | decoder 70%, the rest 30% |" in text


def test_a_case_without_a_usable_reward_says_so() -> None:
    data = collected(0.9)
    for each in data["cases"]:
        each |= {"selected": None, "setting": None}
        for measured in each["runs"]:
            del measured["test"]
            for setting in measured["select"]["settings"].values():
                setting["error"] = None
    empty = ttc_report.collect(data["protocol"], data["cases"], None, data["machine"])
    text = ttc_report.render(empty)
    assert "no setting had a usable reward" in text
    assert "Too few runs completed" in text


def test_a_run_that_failed_is_named() -> None:
    data = collected(0.9)
    failed = data["cases"][0]["runs"][0]
    failed["wide"] = {**failed["wide"], "status": "STALLED", "reason": "not below the mean"}
    for kind in ("oracle", "select", "test"):
        del failed[kind]
    again = ttc_report.collect(data["protocol"], data["cases"], data["speed"], data["machine"])
    assert "seed 0 is left out, wide STALLED: not below the mean." in ttc_report.render(again)

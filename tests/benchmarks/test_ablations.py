"""The axes are searchable, their claims speak of arms that exist, and verdicts follow the intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ablation_report
import ablations
import numpy as np
import pytest
from ablation_axes import AXES, arm_of
from ablation_report import Claim, judge

from tune.checks import load_plan_from_space


@pytest.mark.parametrize("name", AXES)
def test_every_claim_compares_arms_of_its_axis(name: str, burgers_file: Path) -> None:
    axis = AXES[name]
    args = ablations._arguments(["--data", str(burgers_file)])
    plan = load_plan_from_space(**ablations.plan_request(args, axis, 7))
    assert plan.base.runtime.seed == 7
    assert plan.base.stages.operator.time_limit_seconds == 20
    arms = [arm_of(axis, plan.space.params_of(plan.base))]
    arms += [arm_of(axis, params) for params in plan.space.combinations_besides([plan.base])]
    assert len(arms) == len(set(arms)) == plan.config.strategy.trials
    for claim in axis.claims:
        assert {claim.better, *claim.worse} <= set(arms)


def test_an_arm_is_called_by_what_it_varies() -> None:
    axis = AXES["operator"]
    assert arm_of(axis, {"operator.kind": "pdet_unet", "operator.mixer": "hybrid"}) == "pdet_unet hybrid"
    assert arm_of(AXES["tokens"], {"latent.tokens": 16}) == "tokens 16"


def errors(scale: float) -> dict[int, list[float | None]]:
    return {seed: list(scale * np.linspace(0.5, 1.5, 8) * (1 + 0.01 * seed)) for seed in range(3)}


def test_verdicts() -> None:
    claim = Claim("small is best", "small", ("middle", "large"))
    known = {"small": errors(0.2)}
    assert judge(claim, {**known, "middle": errors(0.3), "large": errors(0.4)})["verdict"] == "holds"
    assert judge(claim, {**known, "middle": errors(0.3), "large": errors(0.1)})["verdict"] == "refuted"
    assert judge(claim, {**known, "middle": errors(0.3), "large": errors(0.2)})["verdict"] == "holds in part"
    assert judge(claim, {**known, "middle": errors(0.2), "large": errors(0.2)})["verdict"] == "not shown"
    assert judge(claim, {**known, "middle": errors(0.3)})["missing"] == ["large"]
    assert judge(claim, {"middle": errors(0.3), "large": errors(0.3)})["verdict"] == "not shown"


def trial(arm: str, scale: float, seed: int, **more: Any) -> dict[str, Any]:
    return {
        **{"arm": arm, "state": "COMPLETE", "score": scale + 0.01 * seed, "reason": "", "parameters": 1234},
        **{"reused_stages": [], "peak_gib": None, "steps": 100, "one_step": 0.01, "correlation_time": 1.5},
        **{"ms_per_trajectory": 3.0, "errors": errors(scale)[seed]},
        "stages": {"operator": {"seconds": 20.0, "score_after": scale, "score_before": None, "kept": True}},
        **more,
    }


def rendered(studies: dict[int, dict[str, Any]], claims: list[Claim]) -> str:
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    protocol = {"train": 8, "validation": 8, "test": 8, "seeds": [0, 1, 2], "seconds": 20.0}
    protocol |= {"cells": 256, "frames": 41, "dt": 0.05}
    axes = {"one": {"title": "An axis", "space": "ablation_one"}}
    data = ablation_report.collect(protocol, axes, {"one": studies}, {"one": claims}, machine)
    return ablation_report.render(json.loads(json.dumps(data, allow_nan=False)))


def study(seed: int, trials: list[dict[str, Any]]) -> dict[str, Any]:
    facts = {"base": "large", "wanted": len(trials), "seconds": 60.0, "commit": "abc1234", "date": "2025-01-01"}
    return {**facts, "trials": trials}


def test_the_report_answers_the_claim() -> None:
    studies = {seed: study(seed, [trial("large", 0.1, seed), trial("small", 0.2, seed)]) for seed in range(3)}
    text = rendered(studies, [Claim("small is best", "small", ("large",))])
    assert "Base: large. Noise floor 0.01 over 3 seeds." in text
    assert "| **large** | 1,234 | 0.11 ± 0.01 | 0.101 ± 0.001 | 0.01 ± 0 | 1.5 ± 0 | 100 ± 0 |" in text
    assert "“small is best”: **refuted**. small is worse than large." in text
    assert "operator alone" not in text


def test_what_stalled_is_said_and_not_averaged() -> None:
    studies = {seed: study(seed, [trial("large", 0.1, seed)]) for seed in range(3)}
    studies[1]["trials"][0] |= {"state": "STALLED", "score": 0.9, "reason": "not below the mean"}
    text = rendered(studies, [Claim("small is best", "small", ("large",))])
    assert "Note: large, seed 1 is left out, STALLED: not below the mean" in text
    assert "| 0.11 ± 0.014 |" in text
    assert "small is not comparable with large." in text


def test_a_later_stage_is_told_apart_from_the_operator() -> None:
    stages = {
        "operator": {"seconds": 20.0, "score_after": 0.1, "score_before": None, "kept": True},
        "diff_residual": {"seconds": 5.0, "score_after": 0.12, "score_before": 0.1, "kept": False},
    }
    more = {"alone": errors(0.3)[0], "curve": [0.2, 0.12, 0.18], "stages": stages}
    text = rendered({0: study(0, [trial("large", 0.1, 0, **more)])}, [])
    header, values = (
        [cell.strip() for cell in line.split("|")]
        for line in text.splitlines()
        if "weights" in line or "**large**" in line
    )
    found = dict(zip(header, values, strict=True))
    assert found["test, operator alone"] == "0.3"
    assert found["validation, with the stage"] == "0.12"
    assert found["its last over its best"] == "1.5"
    assert found["training, s"] == "25"

"""Every sampler that a word of YAML names, and several objectives: what holds for all of them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_search import CANDIDATES, COMBINATIONS, EPOCHS, FINITE, LR, STAGED, THREE, MadeUpSearch
from optuna.trial import TrialState

from tune.sampler import NO_SKILL, Proposer
from tune.space import SearchConfig
from tune.study import OpenStudy
from tune.trial import DIVERGED, Outcome
from ups.core.types import Status

CHEAP = 5
WORDS = ("stage_tree", "tpe", "gp", "cmaes", "random", "grid")
WEIGHT = "stages.operator.losses.inverse_encoding.weight"
MIXED = THREE | {
    "inverse": {"choice": [False, True]},
    WEIGHT: {"float": [1e-4, 0.5], "log": True, "when": {"inverse": True}},
    "operator.kind": {"choice": ["pdet_stack", "pdet_unet"]},
    "operator.depth": {"int": [2, 4], "when": {"operator.kind": "pdet_stack"}},
    "operator.depths": {"choice": [[1, 1, 1], [2, 1, 2]], "when": {"operator.kind": "pdet_unet"}},
}


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def told(plan, **settings):
    """The plan with other settings beside its strategy."""
    return replace(plan, config=SearchConfig.parse({**plan.config.model_dump(mode="json"), **settings}))


def made_up(values, stage):
    return Status.EXPLODED if values[LR] > 1.0 else 0.1 + values[LR] + 0.01 * values[EPOCHS]


@pytest.mark.parametrize("word", WORDS)
def test_what_a_sampler_proposes_lies_in_the_space(make_plan, tmp_path_factory, word):
    domains, trials = (FINITE, COMBINATIONS + 1) if word == "grid" else (MIXED, 12)

    @settings(max_examples=1 if word in ("grid", "gp") else 4, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def holds(seed):
        plan = make_plan(space=domains, trials=trials, sampler=word, seed=seed, startup_trials=4, milestones=STAGED)
        with MadeUpSearch(plan, tmp_path_factory.mktemp("s") / "s", made_up) as search:
            records = search.run()
        space = plan.space
        assert len(records) == trials
        for record in records[1:]:
            assert all(space.domains[name].contains(value) for name, value in record.params.items())
            assert set(record.params) == {name for name in space.order if space.is_active(name, record.params)}

    holds()


OBJECTIVES = [{"metric": "rollout_nrmse"}, {"metric": "inference_ms"}]
LIMITS = {"inference_ms": {"max": 6}, "peak_memory_gib": {"max": 2}}


def measured(number):
    metrics = {"rollout_nrmse": 1.0 / (number + 1), "inference_ms": float(number), "peak_memory_gib": 0.5 * number}
    return Outcome(Status.COMPLETE, metrics["rollout_nrmse"], metrics=metrics)


@pytest.mark.parametrize("word", ["stage_tree", "tpe"])
def test_several_objectives_are_told_and_go_on_after_a_resume(make_plan, tmp_path, word):
    plan = told(make_plan(space=THREE, trials=30, sampler=word, scheduler="none"), objective=OBJECTIVES)
    outcomes = [*map(measured, range(10)), Outcome(Status.PRUNED, 0.3), Outcome(Status.STALLED), Outcome(Status.FAILED)]
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        proposer = Proposer(study)
        for outcome in outcomes[:7]:
            proposer.tell(proposer.next().number, outcome)
    with OpenStudy(tmp_path / "s", plan, resume=True) as study:
        proposer = Proposer(study)
        for outcome in outcomes[7:]:
            trial = proposer.next()
            proposer.report(trial.number, 0, 0.7)
            proposer.tell(trial.number, outcome)
        trials = study.optuna.get_trials()
        assert [trial.values for trial in trials[:3]] == [[1.0, 0.0], [0.5, 1.0], [1 / 3, 2.0]]
        # what was stopped has no values of its own: it counts as the worst there is
        assert [(trial.state, trial.values) for trial in trials[10:12]] == [(TrialState.COMPLETE, [1.0, 9.0])] * 2
        assert trials[12].state is TrialState.FAIL
        assert [record.state for record in study.records()[10:]] == [Status.PRUNED, Status.STALLED, Status.FAILED]
        assert {trial.number for trial in study.optuna.best_trials} == set(range(10))


def test_a_search_of_several_objectives_runs_to_its_end(make_plan, tmp_path):
    plan = make_plan(space=THREE, trials=15, scheduler="none", milestones=STAGED)
    plan = told(plan, objective=OBJECTIVES, constraints={"inference_ms": {"max": 5}})
    with MadeUpSearch(plan, tmp_path / "s", made_up) as search:
        records = search.run()
        trials = search.study.optuna.get_trials()
    assert len(records) == 15
    keys = {*(verdict.lower() for verdict in DIVERGED), "limit inference_ms"}
    for trial, record in zip(trials, records, strict=True):
        assert set(trial.constraints) == keys
        if record.state is Status.COMPLETE:
            assert trial.values == [record.score, record.metrics["inference_ms"]]
            assert trial.constraints["limit inference_ms"] == record.metrics["inference_ms"] - 5


def test_constraints_are_told_under_the_same_keys_on_every_complete_trial(make_plan, tmp_path):
    plan = told(make_plan(trials=20), constraints=LIMITS)
    outcomes = [measured(0), measured(9), *map(Outcome, DIVERGED), Outcome(Status.PRUNED, 0.5)]
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        proposer = Proposer(study)
        for outcome in outcomes:
            proposer.tell(proposer.next().number, outcome)
        trials = study.optuna.get_trials()
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(complete) == len(outcomes) - 1
    assert {tuple(trial.constraints) for trial in complete} == {
        (*(verdict.lower() for verdict in DIVERGED), "limit inference_ms", "limit peak_memory_gib")
    }
    limits = [[trial.constraints[f"limit {name}"] for name in LIMITS] for trial in trials[:3]]
    assert limits == [[-6.0, -2.0], [3.0, 2.5], [0.0, 0.0]]  # what was not measured violates nothing


def test_what_breaks_a_constraint_is_never_the_best_and_the_tree_learns_so(make_plan, tmp_path):
    plan = told(make_plan(space=THREE, trials=40, milestones=STAGED), constraints={"inference_ms": {"max": CHEAP}})

    def dearer_is_better(values, stage):
        return 0.5 - 0.03 * values[CANDIDATES] if stage == "inference" else 0.5

    with MadeUpSearch(plan, tmp_path / "s", dearer_is_better) as search:
        records = search.run()
        assert search.driver.snapshot().best.metrics["inference_ms"] <= CHEAP
    on = [record for record in records if record.params.get("ttc.enabled")]
    assert len(on) > 10
    late = [record.metrics["inference_ms"] <= CHEAP for record in on[len(on) // 2 :] if record.metrics]
    assert sum(late) > len(late) / 2


def test_a_verdict_without_a_complete_trial_counts_as_no_skill_in_every_objective(make_plan, tmp_path):
    plan = told(make_plan(scheduler="none"), objective=OBJECTIVES)
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        proposer = Proposer(study)
        proposer.tell(proposer.next().number, Outcome(Status.TIMED_OUT, reason="late"))
        (trial,) = study.optuna.get_trials()
    assert trial.values == [NO_SKILL, NO_SKILL]
    assert trial.constraints["timed_out"] == 1.0

"""What Optuna is told, and that it learns from it."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
from optuna.trial import TrialState

from tune.sampler import NO_SKILL, Proposer, outcome_of
from tune.study import OpenStudy, load_trials
from tune.trial import DIVERGED, Outcome
from ups.core.types import Status

LR = "stages.operator.optimizer.lr"


@pytest.fixture
def open_study(tmp_path, make_plan):
    opened = []

    def open_(resume=False, **strategy):
        for study in opened:
            study.__exit__(None, None, None)
        opened.append(OpenStudy(tmp_path / "study", make_plan(**strategy), resume=resume))
        return opened[-1]

    yield open_
    opened[-1].__exit__(None, None, None)


def tell_all(study, *outcomes):
    proposer = Proposer(study)
    for outcome in outcomes:
        proposer.tell(proposer.next().number, outcome)
    return study.optuna.get_trials()


def test_complete_is_complete_and_feasible(open_study):
    (trial,) = tell_all(open_study(), Outcome(Status.COMPLETE, 0.25))
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.25)
    assert trial.constraints == {verdict.lower(): 0.0 for verdict in DIVERGED}


@pytest.mark.parametrize("verdict", DIVERGED)
def test_a_verdict_is_complete_with_its_constraint_violated_and_the_worst_score_so_far(open_study, verdict):
    outcomes = [Outcome(verdict), Outcome(Status.COMPLETE, 0.2), Outcome(Status.COMPLETE, 0.4), Outcome(verdict)]
    first, *_, last = tell_all(open_study(), *outcomes)
    assert {first.state, last.state} == {TrialState.COMPLETE}
    assert (first.value, last.value) == (NO_SKILL, 0.4)
    assert {name for name, value in last.constraints.items() if value > 0} == {verdict.lower()}


def test_every_complete_trial_carries_the_same_constraints(open_study):
    trials = tell_all(open_study(), Outcome(Status.COMPLETE, 0.3), *(Outcome(verdict) for verdict in DIVERGED))
    assert len({tuple(trial.constraints) for trial in trials}) == 1


@pytest.mark.parametrize("state", [Status.PRUNED, Status.STALLED])
def test_pruned_is_told_with_its_score_at_its_last_milestone(open_study, state):
    proposer = Proposer(study := open_study())
    number = proposer.next().number
    proposer.report(number, 0, 0.7)
    proposer.report(number, 1, 0.6)
    proposer.tell(number, Outcome(state, 0.6))
    (trial,) = study.optuna.get_trials()
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 0.6, {0: 0.7, 1: 0.6})


def test_stalled_before_the_first_milestone_still_has_a_value(open_study):
    (trial,) = tell_all(open_study(), Outcome(Status.STALLED, 0.9))
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.9)


def test_failed_is_fail(open_study):
    (trial,) = tell_all(open_study(), Outcome(Status.FAILED, reason="boom"))
    assert (trial.state, trial.value) == (TrialState.FAIL, None)


def test_records_come_back_as_they_were_told(open_study):
    study = open_study()
    outcome = Outcome(
        Status.EXPLODED,
        None,
        "norm 1e9",
        {"operator:0.25": 0.7},
        seconds=12.5,
        parameters=1234,
        metrics={"peak_memory_gib": 0.5},
        reused_stages=("operator",),
        stage_seconds={"diff_residual": 12.5},
    )
    tell_all(study, outcome)
    for record in (study.records()[0], load_trials(study.folder)[0]):
        assert (record.state, record.score, record.reason) == (Status.EXPLODED, None, "norm 1e9")
        assert (record.milestones, record.seconds, record.parameters) == ({"operator:0.25": 0.7}, 12.5, 1234)
        assert (record.origin, record.reused_stages) == ("base", ("operator",))
        assert record.metrics == {"peak_memory_gib": 0.5}
    assert outcome_of(study.optuna.get_trials()[0]) == outcome
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_the_base_is_trial_zero_then_start_from_and_both_are_protected(base, make_plan, tmp_path):
    start = base.override({LR: 0.02, "operator.depth": 5})
    with OpenStudy(tmp_path / "study", make_plan(start_from=(start,)), resume=False) as study:
        proposer = Proposer(study)
        first, second, third = (proposer.next() for _ in range(3))
        assert study.plan.space.config_of(first.params) == base
        assert study.plan.space.config_of(second.params) == start
        assert second.params["operator.depth"] == 5
        assert [trial.protected for trial in (first, second, third)] == [True, True, False]
        learned = study.optuna.get_trials()[1].params
        assert learned == {LR: 0.02, "latent.tokens": 64}  # what lies in the space teaches the sampler


def test_what_is_proposed_is_a_function_of_the_journal(open_study):
    outcomes = [Outcome(Status.COMPLETE, 0.5 - 0.01 * number) for number in range(8)]
    tell_all(open_study(trials=20), *outcomes)
    expected = [Proposer(study).next().params for study in [open_study(resume=True, trials=20)]]
    # that trial is unfinished now: it is taken up under the same number, with the same parameters
    again = Proposer(open_study(resume=True, trials=20)).next()
    assert (again.number, again.params) == (8, expected[0])


def test_parameters_that_a_kill_cut_off_are_drawn_and_those_written_stay(open_study):
    proposer = Proposer(study := open_study())
    proposer.tell(proposer.next().number, Outcome(Status.COMPLETE, 0.5))
    params = proposer.next().params
    lines = (study.folder / "journal.log").read_text().splitlines(keepends=True)
    # the last line is the second parameter; half of it was written
    assert "latent.tokens" in lines[-1]
    (study.folder / "journal.log").write_text("".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    again = Proposer(open_study(resume=True)).next()
    assert again.number == 1
    assert again.params[LR] == params[LR]
    assert again.params["latent.tokens"] in (16, 32, 64)


def test_what_a_kill_left_of_a_verdict_is_not_part_of_another_one(open_study):
    tell_all(study := open_study(), Outcome(Status.EXPLODED))
    journal = study.folder / "journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # the last one closed the trial
    (trial,) = tell_all(open_study(resume=True), Outcome(Status.COMPLETE, 0.5))
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.constraints == {verdict.lower(): 0.0 for verdict in DIVERGED}


def test_no_more_trials_are_asked_than_wanted_over_resumes(open_study):
    tell_all(open_study(trials=3), *[Outcome(Status.COMPLETE, 0.5)] * 2)
    proposer = Proposer(open_study(resume=True, trials=3))
    assert proposer.next().number == 2
    assert proposer.next() is None


def test_random_and_tpe_differ_only_in_what_they_learn(open_study):
    proposer = Proposer(open_study(sampler="random", trials=40, seed=3))
    drawn = [proposer.next().params[LR] for _ in range(40)][1:]
    assert 1e-4 <= min(drawn) < 1e-3
    assert 1 < max(drawn) <= 10


def test_tpe_learns_to_avoid_what_explodes(open_study):
    """Good learning rates stand before a cliff, and three fifths of the space lie behind it. As a failure, which is
    what a search without verdicts would tell, explosions teach nothing."""
    shares = {}
    for verdict in (Status.EXPLODED, Status.FAILED):
        for seed in range(3):
            study = open_study(resume=False, trials=45, startup_trials=8, seed=seed, sampler="tpe")
            proposer, exploded = Proposer(study), []
            for _ in range(45):
                trial = proposer.next()
                rate = trial.params[LR]
                exploded.append(rate > 1e-2)
                complete = Outcome(Status.COMPLETE, 0.1 + abs(math.log(rate / 5e-3)))
                proposer.tell(trial.number, Outcome(verdict) if exploded[-1] else complete)
            shares.setdefault(verdict, []).append(sum(exploded[-20:]) / 20)
            study.__exit__(None, None, None)
            shutil.rmtree(study.folder)
    assert np.mean(shares[Status.EXPLODED]) < 0.4, shares
    assert np.mean(shares[Status.EXPLODED]) < np.mean(shares[Status.FAILED]) - 0.2, shares


GRID = {
    "inverse": {"choice": [False, True]},
    "stages.operator.losses.inverse_encoding.weight": {"choice": [0.1, 0.3], "when": {"inverse": True}},
    "operator.kind": {"choice": ["pdet_stack", "pdet_unet"]},
    "operator.depth": {"int": [3, 4], "when": {"operator.kind": "pdet_stack"}},
    "operator.depths": {"choice": [[1, 1, 1], [2, 1, 2]], "when": {"operator.kind": "pdet_unet"}},
}
"""3 x 4 combinations, of which the base is one"""


def test_a_grid_is_every_combination_once_over_resumes(base, make_plan, tmp_path):
    start = base.override({"operator.depth": 3, LR: 0.02})  # differs outside the grid: no combination
    plan = make_plan(space=GRID, sampler="grid", trials=13, start_from=(start,))
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        tell_all(study, *[Outcome(Status.COMPLETE, 0.5)] * 7)
    with OpenStudy(tmp_path / "s", plan, resume=True) as study:
        tell_all(study, *[Outcome(Status.COMPLETE, 0.5)] * 6)
        assert Proposer(study).next() is None
        records = study.records()
    configs = [plan.space.config_of(record.params) for record in records]
    assert configs[:2] == [base, start]
    points = [
        (config.stages.operator.losses.inverse_encoding.weight, config.operator.kind, *rest)
        for config in (configs[:1] + configs[2:])
        for rest in [config.operator.depths if config.operator.kind == "pdet_unet" else (config.operator.depth,)]
    ]
    shapes = [("pdet_stack", 3), ("pdet_stack", 4), ("pdet_unet", 1, 1, 1), ("pdet_unet", 2, 1, 2)]
    assert sorted(points) == [(weight, *shape) for weight in (0.0, 0.1, 0.3) for shape in shapes]
    # a list comes back from the journal as a list
    depths = [record.params["operator.depths"] for record in records if "operator.depths" in record.params]
    assert sorted(depths) == [[1, 1, 1]] * 3 + [[2, 1, 2]] * 3


def test_an_interrupted_grid_takes_up_the_combination_it_left(make_plan, tmp_path):
    plan = make_plan(space=GRID, sampler="grid", trials=12)
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        proposer = Proposer(study)
        proposer.next()
        left = proposer.next()
    with OpenStudy(tmp_path / "s", plan, resume=True) as study:
        proposer = Proposer(study)
        assert [proposer.next().number, proposer.next().params] == [0, left.params]


def test_lists_are_sampled_too(make_plan, tmp_path):
    depths = {"operator.depths": {"choice": [[1, 1, 1], [2, 1, 2]]}}
    base = make_plan().base.override({"operator.kind": "pdet_unet"})
    plan = type(make_plan())(make_plan(space=depths, trials=30, startup_trials=5, sampler="tpe").config, base)
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        proposer, found = Proposer(study), []
        for _ in range(30):
            trial = proposer.next()
            config = plan.space.config_of(trial.params)
            found.append(config.operator.depths)
            proposer.tell(trial.number, Outcome(Status.COMPLETE, 0.1 * sum(config.operator.depths)))
        assert study.records()[0].params == {"operator.depths": [1, 1, 1]}
    assert set(found) == {(1, 1, 1), (2, 1, 2)}
    assert found[-10:].count((1, 1, 1)) > 5


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "tpe", "stage_tree"])
def test_further_seeds_of_the_base_measure_it_and_teach_the_sampler_nothing(open_study, sampler):
    study = open_study(sampler=sampler, base_seeds=3, trials=12)
    proposer, seeds = Proposer(study), []
    for number in range(8):
        trial = proposer.next()
        seeds.append(study.plan.space.config_of(trial.params).runtime.seed)
        assert trial.protected == (number < 3)
        proposer.tell(trial.number, Outcome(Status.COMPLETE, 0.5 + 0.01 * number))
    assert seeds == [0, 1, 2, 0, 0, 0, 0, 0]
    records = study.records()
    assert [record.origin for record in records[:4]] == ["base", "noise", "noise", "sampled"]
    assert {record.state for record in records} == {Status.COMPLETE}
    taught = [trial for trial in study.optuna.get_trials() if trial.state is TrialState.COMPLETE]
    assert [trial.number for trial in taught] == [0, 3, 4, 5, 6, 7]
    assert all(LR in trial.params for trial in taught)

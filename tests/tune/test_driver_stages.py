"""What the driver knows of stages that trials share: nobody trains what another one trains, or was stopped at."""

from __future__ import annotations

import os

import pytest
from made_up_search import COSTS, EPOCHS, LR, STAGED, THREE, MadeUpSearch, keys_of

from tune.driver import ASK_AGAIN_SECONDS, EXHAUSTED, LATE, Driver
from tune.running import NoView
from tune.study import OpenStudy
from tune.trial import Outcome
from ups.core.types import Status

CORRECTED = {"latent.tokens": {"choice": [64, 128]}, EPOCHS: {"int": [0, 3]}}
"""a grid of it tries the corrections of one operator, then those of the other; the base is the first of them"""


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, make_plan, clock):
    """Gives a driver over a grid."""
    opened = []

    def make_(concurrency=4, start_from=(), space=CORRECTED, trials=8):
        plan = make_plan(space=space, start_from=start_from, sampler="grid", trials=trials, milestones=STAGED)
        opened.append(OpenStudy(tmp_path / "s", plan, resume=False))
        return Driver(
            opened[-1],
            check=lambda config: 5,
            keys=keys_of,
            concurrency=concurrency,
            time_budget=None,
            view=NoView(),
            clock=clock,
        )

    yield make_
    opened[-1].__exit__(None, None, None)


def at(stage, share, score):
    return {"stage": stage, "share": share, "seconds": COSTS[stage] * share, "score": score}


def parked(driver):
    return [running.trial.number for running in driver.parked]


def asked(driver):
    """Numbers of the trials that are started now."""
    found = []
    while (trial := driver.next()) is not None:
        found.append(trial.number)
    return found


def test_a_trial_that_needs_a_stage_in_training_takes_no_worker_until_it_is_trained(make):
    driver = make()
    # the base trains the operator of 1, 2 and 3, and 4 another one that 5 to 7 need
    assert asked(driver) == [0, 4]
    assert parked(driver) == [1, 2, 3, 5]
    driver.progress(0, at("operator", 1.0, 0.5))
    assert asked(driver) == []
    driver.end(0, Outcome(Status.COMPLETE, 0.5, stage_seconds={"operator": 50.0}))
    assert asked(driver) == [1, 2, 3]
    assert parked(driver) == [5, 6, 7]
    driver.progress(1, at("diff_residual", 0.5, 0.4))
    assert driver.running[1].reused == ("operator",)
    driver.end(1, driver.lost(1, "died"))
    assert driver.records[1].reused_stages == ("operator",)


def test_a_stage_is_trained_as_soon_as_its_holder_reports_of_the_next(make):
    driver = make()
    driver.end(asked(driver)[0], Outcome(Status.EXPLODED, stage_seconds={"operator": 5.0}))
    assert driver.records[0].state is Status.EXPLODED
    assert sorted(driver.records) == [0, 1, 2, 3]
    assert asked(driver) == []
    driver.end(4, Outcome(Status.FAILED, reason="died"))
    assert asked(driver) == [5]  # a failure says nothing of the stage: the first that waits trains it
    driver.progress(5, at("operator", 1.0, 0.5))
    assert asked(driver) == []
    driver.progress(5, at("diff_residual", 0.5, 0.4))
    assert asked(driver) == [6, 7]


def test_a_stage_is_trained_when_its_holder_ends_in_the_next_one_without_a_word_of_it(make):
    driver = make()
    assert asked(driver) == [0, 4]
    driver.end(0, Outcome(Status.COMPLETE, 0.5, stage_seconds={"operator": 50.0}))
    assert asked(driver) == [1, 2, 3]
    assert parked(driver) == [5, 6, 7]
    # the first of the other operator's trials has no correction: it fails, and the next one trains for all
    driver.end(4, Outcome(Status.FAILED, reason="died"))
    assert asked(driver) == [5]
    seconds = {"operator": 50.0, "diff_residual": 0.1}
    driver.end(5, Outcome(Status.EXPLODED, reason="at once", milestones={"operator:1": 0.4}, stage_seconds=seconds))
    assert asked(driver) == [6, 7]


@pytest.mark.parametrize("state", [Status.EXPLODED, Status.NOT_FINITE, Status.STALLED])
def test_all_that_wait_for_a_stage_inherit_the_verdict_on_it_and_one_that_is_protected_does_not(make, base, state):
    driver = make(start_from=(base.override({"latent.dim": 48, "latent.tokens": 128, EPOCHS: 1}),))
    assert asked(driver)[:2] == [0, 1]
    outcome = Outcome(state, None, "norm 1e9", {"operator:0.25": 2.0}, stage_seconds={"operator": 20.0})
    driver.end(0, outcome)
    for number in (2, 3, 4):
        record = driver.records[number]
        assert (record.state, record.score, record.milestones) == (state, None, {"operator:0.25": 2.0})
        assert record.reason == "shares operator with trial 0: norm 1e9"
    assert 1 not in driver.records
    # what is inherited was seen once
    assert driver.rungs.arrivals(0) == ()


def test_one_that_is_protected_trains_what_another_was_stopped_at(make, base):
    # start_from is the operator of the base with a correction
    driver = make(start_from=(base.override({EPOCHS: 9}),))
    assert asked(driver)[0] == 0
    assert 1 in parked(driver)
    driver.end(0, Outcome(Status.EXPLODED, stage_seconds={"operator": 20.0}))
    assert 1 not in driver.records
    assert 1 in asked(driver)


@pytest.mark.parametrize(("share", "inherits"), [("0.5", True), ("1", False)])
def test_a_verdict_at_the_end_of_a_stage_is_none_on_a_trial_that_ends_there(make, share, inherits):
    driver = make(space={"latent.tokens": {"choice": [64, 128]}, EPOCHS: {"choice": [2, 0]}}, trials=4)
    assert asked(driver) == [0, 2]
    assert driver.parked[1].stages == ("operator",)
    stopped = Outcome(Status.PRUNED, 0.9, "late", {f"operator:{share}": 0.9}, stage_seconds={"operator": 50.0})
    driver.end(2, stopped)
    assert (3 in driver.records) == inherits
    assert asked(driver) == ([] if inherits else [3])


def test_a_stage_that_another_driver_trains_is_asked_for_again_later(make, clock):
    driver = make(concurrency=2)
    assert asked(driver)[0] == 0
    driver.waits(0)
    assert 0 in parked(driver)
    assert 0 not in asked(driver)
    clock.now += ASK_AGAIN_SECONDS
    assert 0 in asked(driver)
    assert not driver.is_over


def test_reused_milestones_are_recorded_once(make_plan, tmp_path):
    plan = make_plan(space=CORRECTED, sampler="grid", trials=8, milestones=STAGED, scheduler="none")
    with MadeUpSearch(plan, tmp_path / "s", lambda values, stage: 1.0 / values["latent.tokens"]) as search:
        records = search.run()
        arrivals = [len(search.driver.rungs.arrivals(index)) for index in range(5)]
    assert [record.state for record in records] == [Status.COMPLETE] * 8
    assert arrivals == [2, 2, 2, 6, 6]
    assert sum("operator" in record.reused_stages for record in records) == 6
    assert search.spent == 2 * COSTS["operator"] + 6 * COSTS["diff_residual"]


def test_the_base_and_start_from_are_never_stopped(make_plan, base, tmp_path):
    start = base.override({LR: 5.0})
    plan = make_plan(space=THREE, start_from=(start,), trials=25, base_seeds=3, milestones=STAGED)

    def worst_where_given(values, stage):
        return 9.0 if values[LR] in (5.0, base.stages.operator.optimizer.lr) else values[LR]

    with MadeUpSearch(plan, tmp_path / "s", worst_where_given) as search:
        records = search.run()
    assert [record.origin for record in records[:4]] == ["base", "noise", "noise", "start0.yaml"]
    assert {record.state for record in records[:4]} == {Status.COMPLETE}
    assert Status.PRUNED in {record.state for record in records[4:]}


@pytest.mark.parametrize("sampler", ["stage_tree", "random"])
def test_nothing_is_started_that_is_not_expected_to_end_in_time(make_plan, tmp_path, sampler):
    always = THREE | {EPOCHS: {"int": [1, 4]}, "ttc.enabled": {"choice": [True]}}
    plan = make_plan(space=always, trials=500, sampler=sampler, scheduler="none", milestones=STAGED)
    with MadeUpSearch(plan, tmp_path / "s", lambda values, stage: 0.5, time_budget=1501.0) as search:
        records = search.run()
        assert search.driver.is_over
        assert search.driver.stop_reason in (LATE, EXHAUSTED)
    # all that was started came to its end, and nothing more would have
    assert {record.state for record in records} == {Status.COMPLETE}
    shortest = COSTS["inference"] if sampler == "stage_tree" else COSTS["operator"]
    assert 1501.0 - search.clock < 2 * shortest + COSTS["diff_residual"]

"""The decisions of a search, without Ray."""

from __future__ import annotations

import math

import pytest

from tune import driver as module
from tune.driver import Driver
from tune.running import NoView
from tune.study import OpenStudy
from tune.trial import Outcome
from ups.config import stages_of
from ups.core.errors import ConfigError
from ups.core.types import Status
from ups.training.keys import stage_keys

LR = "stages.operator.optimizer.lr"


def report(k, score=None):
    metrics = {"stage": "operator", "share": k / 4, "seconds": float(k)}
    return metrics if score is None else {**metrics, "score": score}


class Recorder(NoView):
    def __init__(self):
        self.records = []

    def ended(self, record, snapshot):
        self.records.append((record, snapshot))


@pytest.fixture
def make_driver(tmp_path, make_plan):
    opened = []

    def make(check=lambda config: 5, resume=False, time_budget=None, view=None, **strategy):
        for study in opened:
            study.__exit__(None, None, None)
        opened.append(OpenStudy(tmp_path / "s", make_plan(**strategy), resume=resume))
        return Driver(
            opened[-1],
            check=check,
            keys=lambda config: stage_keys(config, ""),
            concurrency=2,
            time_budget=time_budget,
            view=view or NoView(),
        )

    yield make
    opened[-1].__exit__(None, None, None)


def arrive(driver, score, k=1):
    number = driver.next().number
    return number, driver.progress(number, report(k, score))


def test_a_trial_far_behind_is_stopped_with_its_score_and_its_reason(make_driver):
    driver = make_driver(trials=20)
    assert [arrive(driver, score)[1] for score in (0.3, 0.2, 0.1)] == [False, False, False]
    number, stop = arrive(driver, 0.9)
    assert stop
    driver.end(number, driver.pruned(number))
    record = driver.records[number]
    assert (record.state, record.score, record.parameters) == (Status.PRUNED, 0.9, 5)
    assert record.milestones == {"operator:0.25": 0.9}
    assert "number 4 of 4" in record.reason


def test_without_a_scheduler_nobody_is_stopped(make_driver):
    driver = make_driver(trials=20, scheduler="none")
    assert not any(arrive(driver, score)[1] for score in (0.1, 0.2, 0.3, 0.9, 5.0))


def test_the_base_is_not_stopped_however_bad(make_driver):
    driver = make_driver(trials=20)
    base = driver.next().number
    for score in (0.3, 0.2, 0.1):
        arrive(driver, score)
    assert not driver.progress(base, report(1, 99.0))


def test_a_score_that_is_not_finite_is_a_verdict(make_driver):
    driver = make_driver(trials=20)
    driver.next()
    number, stop = arrive(driver, math.nan)
    assert stop
    driver.end(number, driver.pruned(number))
    record = driver.records[number]
    assert (record.state, record.score, record.milestones) == (Status.NOT_FINITE, None, {})


def test_infeasible_proposals_end_at_once_and_count(make_driver):
    def check(config):
        if config.latent.tokens != 64:
            raise ConfigError("latent.tokens: too many")
        return 5

    view = Recorder()
    driver = make_driver(check, trials=12, view=view)
    numbers = []
    while (trial := driver.next()) is not None:
        numbers.append(trial.number)
        driver.end(trial.number, Outcome(Status.COMPLETE, 0.5))
    states = [record.state for _, record in sorted(driver.records.items())]
    assert len(states) == 12
    assert [number for number, state in enumerate(states) if state is Status.COMPLETE] == numbers
    assert 0 < states.count(Status.INFEASIBLE) < 12
    assert view.records[-1][1].ended == 12
    assert {record.reason for record, _ in view.records} == {"", "latent.tokens: too many"}


def test_endless_infeasible_proposals_end_the_search(make_driver, monkeypatch):
    monkeypatch.setattr(module, "INFEASIBLE_IN_A_ROW", 5)

    def refuse(config):
        raise ConfigError("never")

    driver = make_driver(refuse, trials=50)
    assert driver.next() is None
    assert len(driver.records) == 5
    assert driver.stop_reason == "the last 5 proposals were infeasible, such as: never"


def test_nothing_new_is_started_once_the_budget_is_spent(make_driver):
    driver = make_driver(time_budget=0.0)
    assert driver.next() is None
    assert driver.stop_reason == "the time budget is spent"


def test_rungs_and_arrivals_come_back_on_a_resume(make_driver):
    driver = make_driver(trials=20)
    for score in (0.3, 0.2, 0.1):
        number, _ = arrive(driver, score)
        driver.progress(number, report(2, score))
    ended, _ = arrive(driver, 0.15)
    driver.end(ended, Outcome(Status.EXPLODED))
    before = [driver.rungs.arrivals(index) for index in range(3)]
    again = make_driver(resume=True, trials=20)
    assert [again.rungs.arrivals(index) for index in range(3)] == before == [(0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3), ()]
    taken_up = [again.next() for _ in range(3)]
    assert [trial.number for trial in taken_up] == [0, 1, 2]  # and the exploded one is not
    assert again.running[1].milestones == {"operator:0.25": 0.2, "operator:0.5": 0.2}
    # a milestone that is reached a second time after the restart is not judged again
    assert not again.progress(2, report(1, 99.0))
    assert [again.rungs.arrivals(index) for index in range(3)] == before


def test_a_snapshot_says_what_is_best_and_what_is_left(make_driver):
    driver = make_driver(trials=10)
    for score in (0.4, 0.2):
        trial = driver.next()
        driver.end(trial.number, Outcome(Status.COMPLETE, score, seconds=10.0))
    arrive(driver, 0.3)
    found = driver.snapshot()
    assert (found.best.score, found.reference.record.score, found.ended) == (0.2, 0.4, 2)
    assert found.left_seconds == pytest.approx(10.0 * 8 / 2)
    assert [each.score for each in found.running] == [0.3]


RATE = {LR: {"float": [1e-4, 10.0], "log": True}}
"""no two trials have the same operator"""
LATER = RATE | {"stages.diff_residual.epochs": {"choice": [0, 2]}}
CORRECTED = RATE | {"stages.diff_residual.epochs": {"choice": [2, 3]}}
BOTH = {"operator": [0.5, 1], "diff_residual": [0.5, 1]}


def at(stage, share, score):
    return {"stage": stage, "share": share, "seconds": 1.0, "score": score}


def test_a_trial_whose_later_stage_is_off_is_not_stopped_at_its_end_and_one_that_goes_on_is(make_driver):
    driver = make_driver(space=LATER, trials=40, sampler="random", milestones=BOTH)
    score, ended, stopped = 0.0, 0, 0
    while (trial := driver.next()) is not None:
        score += 0.1  # everyone arrives behind all before
        goes_on = trial.params["stages.diff_residual.epochs"] > 0 if trial.number else False
        stop = driver.progress(trial.number, at("operator", 1.0, score))
        if trial.number >= 3:
            assert stop == goes_on
        outcome = driver.pruned(trial.number) if stop else Outcome(Status.COMPLETE, score)
        driver.end(trial.number, outcome)
        ended, stopped = ended + (not stop), stopped + stop
    assert ended > 5
    assert stopped > 5
    assert len(driver.rungs.arrivals(1)) == 40
    assert driver.rungs.arrivals(2) == ()


def test_a_later_stage_is_compared_with_that_stage_alone(make_driver):
    driver = make_driver(space=CORRECTED, trials=20, milestones=BOTH)
    for score in (0.1, 0.1, 0.1):
        arrive_at = driver.next().number
        driver.progress(arrive_at, at("operator", 0.5, score))
    late = driver.next().number
    # worse than any operator score, and the first of its stage
    assert not driver.progress(late, at("diff_residual", 0.5, 0.9))
    assert driver.rungs.arrivals(2) == (0.9,)
    assert driver.running[late].stage == "diff_residual"


def test_the_score_of_a_trial_stopped_in_a_later_stage_is_its_last_and_what_it_reused_is_told(make_driver):
    driver = make_driver(space=CORRECTED, trials=20, milestones=BOTH)
    driver.next()
    for score in (0.1, 0.2, 0.3):
        number = driver.next().number
        driver.progress(number, at("diff_residual", 0.5, score))
    number = driver.next().number
    driver.progress(number, at("operator", 0.5, 0.05))
    assert driver.progress(number, at("diff_residual", 0.5, 0.9))
    assert driver.pruned(number).reused_stages == ()
    driver.end(number, driver.pruned(number))
    record = driver.records[number]
    assert (record.state, record.score) == (Status.PRUNED, 0.9)
    assert record.milestones == {"operator:0.5": 0.05, "diff_residual:0.5": 0.9}
    number = driver.next().number
    assert driver.progress(number, at("diff_residual", 0.5, 0.9))
    driver.end(number, driver.pruned(number))
    assert driver.records[number].reused_stages == ("operator",)


def test_a_search_at_test_time_is_what_a_trial_goes_through_last(make_driver):
    switch = CORRECTED | {"ttc.enabled": {"choice": [True]}}
    driver = make_driver(space=switch, trials=20, milestones={"operator": [0.5, 1.0]})
    assert stages_of(driver._space.base) == ("operator",)
    driver.end(driver.next().number, Outcome(Status.COMPLETE, 0.1))
    for score in (0.1, 0.2, 0.3):
        number = driver.next().number
        assert driver.running[number].stages == ("operator", "diff_residual", "inference")
        driver.progress(number, at("operator", 1.0, score))
    # everything above it was found, and its own score is no milestone that others are compared at
    number = driver.next().number
    assert not driver.progress(number, at("inference", 1.0, 0.9))
    assert driver.running[number].reused == ("operator", "diff_residual")
    assert driver.running[number].milestones == {"inference:1": 0.9}


def test_a_trial_that_is_searched_at_test_time_is_stopped_before_it(make_driver):
    driver = make_driver(space=RATE | {"ttc.enabled": {"choice": [True]}}, trials=20, milestones={"operator": [1.0]})
    driver.next()
    stops = [driver.progress(driver.next().number, at("operator", 1.0, score)) for score in (0.1, 0.2, 0.3, 0.4)]
    assert stops[-1]

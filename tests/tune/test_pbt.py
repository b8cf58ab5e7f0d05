"""Population based training: who is replaced, by what, and that nothing of it is lost or made twice."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune.checks import check_space
from tune.cli import app
from tune.domain import Domain
from tune.driver import SETTLED, Driver
from tune.pbt import CHANGES, REPLACED_BY, REPLACES, moved_values
from tune.running import NoView
from tune.search import run_search
from tune.study import OpenStudy, load_study
from tune.trial import Outcome
from ups.cli.terminal import run_app
from ups.core.errors import ConfigError
from ups.core.types import Status
from ups.run import train_run
from ups.training.keys import stage_keys

LR, DECAY = "stages.operator.optimizer.lr", "stages.operator.optimizer.weight_decay"
PBT = {"scheduler": "pbt", "sampler": "random", "milestones": {"operator": [0.25, 0.5, 1.0]}}
SPACE = {
    LR: {"float": [1e-4, 10.0], "log": True},
    DECAY: {"float": [1e-3, 0.1], "log": True, "when": {"decays": True}},
    "decays": {"choice": [False, True]},
    "latent.tokens": {"choice": [16, 32, 64]},
}


def report(k, score):
    return {"stage": "operator", "share": k / 4, "seconds": float(k), "score": score}


@pytest.fixture
def make_driver(tmp_path, make_plan):
    opened = []

    def make(name="s", resume=False, check=lambda config: 5, concurrency=8, **strategy):
        for study in opened:
            study.__exit__(None, None, None)
        opened.clear()
        study = OpenStudy(
            tmp_path / name, make_plan(**{"space": SPACE, "trials": 30, **PBT, **strategy}), resume=resume
        )
        opened.append(study)
        return Driver(
            study, check=check, keys=lambda config: stage_keys(config, ""), concurrency=concurrency, time_budget=None,
            view=NoView(),
        )  # fmt: skip

    yield make
    for study in opened:
        study.__exit__(None, None, None)


def config_of(driver, trial):
    return driver._space.config_of(trial.params)


def arrive(driver, scores, k=1):
    """New trials that arrive with these scores; (number, whether it is stopped) of each."""
    found = []
    for score in scores:
        number = driver.next().number
        found.append((number, driver.progress(number, report(k, score))))
    return found


def replace(driver, score, k=1):
    """A trial that is stopped here, and the copy that takes its place."""
    ((number, stop),) = arrive(driver, [score], k)
    assert stop
    record = driver.end(number, driver.pruned(number)) or driver.records[number]
    return record, driver.next()


def test_one_of_the_worst_gives_its_place_to_a_copy_of_one_of_the_best(make_driver):
    driver = make_driver()
    arrive(driver, [0.3, 0.1, 0.2])
    record, copy = replace(driver, 0.9)
    assert record.state is Status.PRUNED
    assert record.reason.startswith("score 0.9 at operator:0.25 is number 4 of 4 that arrived")
    assert record.reason.endswith("a copy of trial 1 takes its place there")
    assert (copy.number, copy.protected) == (4, False)
    parent, config = driver.running[1].trial, config_of(driver, copy)
    assert {name: copy.params[name] for name in parent.params} == parent.params
    (change,) = config.stages.operator.changes
    before = config_of(driver, parent).stages.operator.optimizer
    low, high = SPACE[LR]["float"]
    assert change.share == 0.25
    assert change.lr in [min(max(before.lr * factor, low), high) for factor in (0.8, 1.25)] != before.lr
    assert (change.weight_decay is not None) == (parent.params["decays"] is True)
    assert config == config_of(driver, parent).override({CHANGES: config.model_dump(mode="json")["stages"]["operator"]["changes"]})  # fmt: skip  # noqa: E501


def test_what_the_study_has_of_a_copy_is_the_config_that_it_trains(make_driver, tmp_path):
    driver = make_driver()
    arrive(driver, [0.3, 0.1, 0.2])
    _, copy = replace(driver, 0.9)
    # a copy is one of the population: it is copied itself, from another milestone on
    driver.progress(copy.number, report(2, 0.01))
    arrive(driver, [0.3, 0.2, 0.2], k=2)
    stopped, second = replace(driver, 0.9, k=2)
    assert second.params[CHANGES][:1] == copy.params[CHANGES]
    assert [change["share"] for change in second.params[CHANGES]] == [0.25, 0.5]
    study = load_study(tmp_path / "s")
    for trial in (copy, second):
        record = study.trials[trial.number]
        assert study.config_of(record) == config_of(driver, trial)
        assert record.origin == f"copy of trial {driver._study.optuna.trials[trial.number].user_attrs['below']}"
    assert driver._study.optuna.trials[second.number].user_attrs[REPLACES] == stopped.number


def test_the_base_is_copied_and_never_stopped_and_its_other_seeds_neither(make_driver):
    driver = make_driver(base_seeds=3)
    assert arrive(driver, [0.6, 0.01, 0.02, 0.5]) == [(0, False), (1, False), (2, False), (3, False)]
    # the seeds of the base are the best of all, and a copy of them would be compared with another seed
    record, copy = replace(driver, 0.9)
    assert record.reason.endswith("a copy of trial 3 takes its place there")
    assert "runtime.seed" not in copy.params
    arrive(driver, [0.1, 0.1, 0.1], k=2)
    assert not any(driver.progress(number, report(2, 99.0)) for number in (0, 1, 2))
    driver = make_driver(name="other", population=4)
    arrive(driver, [0.1, 0.5, 0.5])
    _, copy = replace(driver, 0.9)
    assert set(copy.params) - set(SPACE) <= {CHANGES}
    assert config_of(driver, copy).override({CHANGES: []}) == driver._space.base


def test_nobody_is_replaced_by_one_that_was_stopped_or_exploded(make_driver):
    driver = make_driver()
    arrive(driver, [0.3, 0.1, 0.2])
    driver.end(1, Outcome(Status.EXPLODED))
    record, _ = replace(driver, 0.9)
    assert record.reason.endswith("a copy of trial 2 takes its place there")


@pytest.mark.parametrize("state", [Status.EXPLODED, Status.NOT_FINITE, Status.STALLED, Status.TIMED_OUT])
def test_a_member_that_is_lost_is_replaced_by_a_copy_from_where_it_was_lost(make_driver, state):
    driver = make_driver()
    arrive(driver, [0.3, 0.1, 0.2, 0.25])
    first = driver.next().number
    driver.end(first, Outcome(state))
    copy = driver.next()
    assert [change["share"] for change in copy.params[CHANGES]] == [0.25]
    for number in (0, 1, 2):
        driver.progress(number, report(2, 0.1 * number + 0.1))
    driver.end(3, Outcome(state))
    assert [change["share"] for change in driver.next().params[CHANGES]] == [0.5]


def test_a_place_that_nobody_can_be_copied_into_is_the_samplers_again(make_driver):
    def check(config):
        if config.latent.tokens == 16:
            raise ConfigError("latent.tokens: too few")
        return 5

    driver = make_driver(population=4, check=check)
    trials = [driver.next() for _ in range(5)]
    assert driver.next() is None
    infeasible = [record for record in driver.records.values() if record.state is Status.INFEASIBLE]
    assert len(driver.records) == len(infeasible) == trials[-1].number - 4
    # too early: nobody has arrived anywhere
    driver.end(trials[1].number, Outcome(Status.EXPLODED))
    new = driver.next()
    assert CHANGES not in new.params
    assert driver.next() is None


def test_nobody_is_stopped_when_no_trial_is_left_for_its_place(make_driver):
    driver = make_driver(trials=9)
    assert not any(stop for _, stop in arrive(driver, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
    driver = make_driver(name="one", trials=10)
    arrived = arrive(driver, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert [stop for _, stop in arrived] == [False] * 3 + [True] + [False] * 5
    driver.end(3, driver.pruned(3))
    assert driver.next().number == 9
    assert driver.next() is None


def test_the_search_ends_with_its_population(make_driver):
    driver = make_driver(population=4)
    for _ in range(5):
        driver.end(driver.next().number, Outcome(Status.COMPLETE, 0.5))
    assert driver.next() is None
    assert driver.stop_reason == SETTLED


def test_two_copies_are_never_the_same(make_driver):
    driver = make_driver(space={LR: SPACE[LR], "latent.tokens": SPACE["latent.tokens"]}, population=20, trials=60)
    arrive(driver, [0.1, 0.2, 0.3])
    seen, stops = [], 0
    for _ in range(12):
        ((number, stop),) = arrive(driver, [0.9 + len(driver.running) / 1000])
        if stop:
            driver.end(number, driver.pruned(number))
            copy = driver.next()
            driver.progress(copy.number, report(2, 0.5))
            seen.append(config_of(driver, copy))
            stops += 1
    assert stops > 3
    assert all(a != b for a, b in itertools.combinations(seen, 2))


# ---------------------------------------------------------------- whole searches, killed anywhere


def made_fate():
    """Score at validation k of 4, or the status that ends the run; nested, so that it travels to a worker by value."""

    def curve(config, k):
        """The right rate falls by three with every quarter of the stage: no rate that stays the same is good."""
        stage = config.stages.operator
        off = 0.0
        for quarter in range(k):
            rate = stage.changed(quarter / 4).get("lr", stage.optimizer.lr)
            off += abs(math.log(rate / (0.1 / 3**quarter)))
        return off / k + 2.0 / k + (0.0 if config.latent.tokens == 32 else 0.5)

    def fate(config, k):
        return Status.EXPLODED if config.stages.operator.optimizer.lr > 4.0 and k == 2 else curve(config, k)

    return fate


fate = made_fate()


def search(make_driver, name, chance, kills, concurrency, **strategy):
    """A search whose trials report in a random order, and which is killed now and then; the last driver."""
    driver = make_driver(name=name, concurrency=concurrency, **strategy)
    at, trained = {}, {}
    while True:
        while len(driver.running) < concurrency and (trial := driver.next()) is not None:
            config = config_of(driver, trial)
            assert trained.setdefault(trial.number, config) == config, "another config after a restart"
            start = max((change.share for change in config.stages.operator.changes), default=0.0)
            at.setdefault(trial.number, round(4 * start))
        if not driver.running:
            return driver, trained
        if kills and chance.random() < 0.1:
            kills -= 1
            driver = make_driver(name=name, concurrency=concurrency, resume=True, **strategy)
            continue
        number = chance.choice(sorted(driver.running))
        value = fate(trained[number], at[number] + 1)
        if isinstance(value, Status):
            driver.end(number, Outcome(value))
            continue
        at[number] += 1
        if driver.progress(number, report(at[number], value)):
            # killed after the verdict, before it was told
            if kills and chance.random() < 0.3:
                kills -= 1
                driver = make_driver(name=name, concurrency=concurrency, resume=True, **strategy)
                continue
            driver.end(number, driver.pruned(number))
        elif at[number] == 4:
            driver.end(number, Outcome(Status.COMPLETE, value))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), kills=st.integers(0, 4), concurrency=st.integers(1, 9))
def test_every_place_has_one_trial_however_often_the_search_is_killed(make_driver, seed, kills, concurrency):
    name = f"{seed}-{kills}-{concurrency}"
    chance = random.Random(seed)
    strategy = {"seed": seed, "population": 8, "trials": 40}
    driver, trained = search(make_driver, name, chance, kills, concurrency, **strategy)
    trials = driver._study.optuna.get_trials(deepcopy=False)
    records = driver._study.records()
    assert len(records) <= 40
    assert [record.state for record in records if record.number == 0] == [Status.COMPLETE]
    ended = (Status.COMPLETE, Status.PRUNED, Status.EXPLODED)
    assert all(record.state in ended for record in records)
    # one copy for each trial that was to have one, and none for the others
    replaced = {trial.number for trial in trials if REPLACED_BY in trial.user_attrs}
    copies = {trial.user_attrs[REPLACES]: trial for trial in trials if REPLACES in trial.user_attrs}
    assert len(copies) == sum(REPLACES in trial.user_attrs for trial in trials)
    assert set(copies) == replaced
    assert {record.number for record in records if record.state is Status.PRUNED} <= replaced
    complete = sum(record.state is Status.COMPLETE for record in records)
    assert complete == 9 or len(records) == 40
    for number, trial in copies.items():
        params = trials[number].user_attrs[REPLACED_BY]["params"]
        assert driver._space.config_of(params) == trained[trial.number]
    # what a copy trains stays in the space, and its parent had come that far
    for record in records:
        config = driver._space.config_of(record.params)
        assert config == trained[record.number]
        for change in config.stages.operator.changes:
            assert SPACE[LR]["float"][0] <= change.lr <= SPACE[LR]["float"][1]
            if change.weight_decay is not None:
                assert record.params["decays"]
                assert SPACE[DECAY]["float"][0] <= change.weight_decay <= SPACE[DECAY]["float"][1]
        if record.origin.startswith("copy"):
            parent = trials[record.number].user_attrs["below"]
            share = config.stages.operator.changes[-1].share
            assert {0.25: 0, 0.5: 1}[share] in trials[parent].intermediate_values
            assert trained[parent].stages.operator.changes == config.stages.operator.changes[:-1]


def test_it_finds_schedules_that_beat_every_constant_rate(make_driver):
    strategy = {"population": 16, "trials": 120, "milestones": {"operator": [0.25, 0.5, 0.75, 1.0]}}
    driver, trained = search(make_driver, "best", random.Random(0), 0, 16, **strategy)
    best = min((record for record in driver.records.values() if record.score is not None
                and record.state is Status.COMPLETE), key=lambda record: record.score)  # fmt: skip
    changes = trained[best.number].stages.operator.changes
    assert changes
    constant = trained[best.number].override({CHANGES: []})
    rates = [10 ** (-4 + 5 * step / 200) for step in range(201)]
    assert best.score < min(fate(constant.override({LR: rate}), 4) for rate in rates if rate < 4.0)


# ---------------------------------------------------------------- pieces

FLOATS = st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)).filter(lambda ends: ends[0] < ends[1])


@given(FLOATS, st.floats(0.0, 2.0))
def test_a_move_stays_in_the_interval_and_moves(ends, value):
    moved = moved_values(Domain.parse({"float": list(ends)}), value)
    assert 1 <= len(moved) <= 2
    assert all(ends[0] <= each <= ends[1] and each != value for each in moved)
    if ends[0] * 1.25 <= value <= ends[1] / 1.25:
        assert moved == [value * 0.8, value * 1.25]


def test_a_move_among_choices_is_to_a_neighbour():
    domain = Domain.parse({"choice": [3e-3, 1e-3, 1e-2]})
    assert moved_values(domain, 3e-3) == [1e-3, 1e-2]
    assert moved_values(domain, 1e-3) == [3e-3]
    assert moved_values(domain, 0.5) == [1e-2]
    assert moved_values(Domain.parse({"choice": [1e-3]}), 1e-3) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "grid", "space": {LR: {"choice": [1e-3, 1e-2]}}}, "strategy.sampler: a grid is known before"),
        ({"batch": 4}, "strategy.batch: a deterministic search is known before"),
        ({"milestones": {"operator": [1.0]}}, "strategy.milestones: pbt needs those of operator"),
        ({"milestones": {"operator": [0.5], "diff_residual": [0.5]}}, "strategy.milestones: pbt needs those of"),
        ({"milestones": {}}, "strategy.milestones: pbt needs those of operator"),
        ({"quantile": 0.1}, "strategy.quantile: at least 1/9 with a population of 8"),
        ({"space": {"latent.tokens": {"choice": [16, 32]}}}, "the space has a range of neither"),
        ({"space": {LR: {"choice": [1e-3]}}}, "the space has a range of neither"),
        (
            {"space": {**SPACE, "stages.operator.time_limit_seconds": {"choice": [None, 10.0]}}},
            "stages.operator.time_limit_seconds: a stage that is limited in time",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(make_plan, change, message):
    plan = make_plan(**{"space": SPACE, **PBT, **change})
    with pytest.raises(ConfigError, match=message):
        check_space(plan.config, plan.base)


def test_it_is_not_for_several_objectives_nor_for_several_drivers(make_plan):
    plan = make_plan(space=SPACE, **PBT)
    check_space(plan.config, plan.base)
    two = plan.config.override({"objective": [{"metric": "rollout_nrmse"}, {"metric": "parameters"}]})
    with pytest.raises(ConfigError, match="pbt copies by the validation error alone"):
        check_space(two, plan.base)
    shared = plan.config.override({"resources.study_storage": "postgresql://user@host/name"})
    with pytest.raises(ConfigError, match="pbt has one driver"):
        check_space(shared, plan.base)


@pytest.mark.usefixtures("ray_session")
def test_a_whole_search_with_workers(make_plan, tmp_path):
    fate = made_fate()

    def train(config, out, report, *, resume, evaluate_on, store, busy):
        from ups.core.types import Progress, RunResult

        assert config.logging.keep_at == (0.25, 0.5)
        start = max((change.share for change in config.stages.operator.changes), default=0.0)
        milestones = {}
        for k in range(round(4 * start) + 1, 5):
            value = fate(config, k)
            if isinstance(value, Status):
                return RunResult(value, "", None, milestones, 1.0, 7, out)
            milestones[f"operator:{k / 4:g}"] = value
            report(Progress("operator", k, 4, k / 4, k, 0.0, 0.0, float(k), value))
        return RunResult(Status.COMPLETE, "", value, milestones, 4.0, 7, out)

    plan = make_plan(space=SPACE, **{**PBT, "trials": 30})
    summary = run_search(plan, tmp_path / "s", trainer=train)
    assert summary.count(Status.COMPLETE) >= 9 or len(summary.records) == 30
    assert any(record.origin.startswith("copy of trial") for record in summary.records)
    assert summary.stop_reason in (SETTLED, None)
    again = run_search(plan, tmp_path / "s", trainer=train, resume=True)
    assert again.records == summary.records


@pytest.mark.usefixtures("ray_session")
def test_a_real_copy_begins_where_its_parent_was_and_its_config_alone_repeats_it(tiny, tmp_path, monkeypatch, capfd):
    stage = {**tiny["stages"]["operator"], "epochs": 8, "optimizer": {"lr": 1e-2}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**tiny, "stages": {"operator": stage}}))
    space = {
        "base": "base.yaml",
        "space": {LR: {"float": [1e-3, 3e-2], "log": True}, "latent.tokens": {"choice": [8, 16]}},
        "strategy": {**PBT, "population": 4, "trials": 9},
        "resources": {"concurrency": 1},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    monkeypatch.chdir(tmp_path)
    assert run_app(app, ["search", "space.yaml", "--out", "s", "--quiet"]) == 0
    capfd.readouterr()
    study = load_study(tmp_path / "s")
    copies = [record for record in study.trials if CHANGES in record.params and record.state is Status.COMPLETE]
    assert copies
    copy = copies[0]
    config = study.config_of(copy)
    begin = config.stages.operator.changes[-1].share
    lines = (study.run_folder(copy) / "progress.jsonl").read_text().splitlines()
    assert min(json.loads(line)["share"] for line in lines) > begin
    assert {f"operator:{k / 4:g}" for k in range(1, 5)} == set(copy.milestones)
    # another folder, an empty store
    again = train_run(config, tmp_path / "again", evaluate_on="none")
    assert (again.score, dict(again.milestones)) == (copy.score, copy.milestones)

"""Laws of a replayed search, on a table of made-up curves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import search_cost
import search_cost_report as report
from made_table import made_table
from replay_clock import Course, Simulation, Ticket
from replay_policies import DOCUMENTED, TUNED, RayPolicy
from replay_table import Table, digest
from stage_grid import SPACE, Grid

from tune.checks import load_plan_from_space
from tune.study import Plan
from ups.core.types import Status
from ups.training.keys import stage_keys

BUDGET = 400.0


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid.load()


@pytest.fixture(scope="module")
def table(grid: Grid) -> Table:
    return Table(made_table(grid), 0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan_from_space(str(SPACE))


class Listed:
    """Trains the given paths in their order; stops the named trials at their n-th report."""

    def __init__(self, tickets: list[Ticket], stops: dict[Any, int] | None = None) -> None:
        self.tickets, self.stops = list(tickets), dict(stops or {})
        self.reports: list[tuple[Any, str, float]] = []
        self.ended: dict[Any, Course | None] = {}

    def ask(self) -> Ticket | None:
        return self.tickets.pop(0) if self.tickets else None

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        self.reports.append((ticket.name, stage, share))
        return sum(name == ticket.name for name, _, _ in self.reports) == self.stops.get(ticket.name)

    def stopped(self, ticket: Ticket) -> None:
        self.ended[ticket.name] = None

    def end(self, ticket: Ticket, course: Course) -> None:
        self.ended[ticket.name] = course


def keyed(name: Any, path: tuple[int, ...]) -> Ticket:
    stages = ("operator", "diff_residual", "consistency_distill")
    return Ticket(name, path, {stage: str(path[: depth + 1]) for depth, stage in enumerate(stages)})


def seconds_of(table: Table, path: tuple[int, ...]) -> float:
    return sum(run.seconds + run.latents_seconds for run in table.run(path))


def test_what_trials_share_in_the_grid_is_what_their_configs_share_in_a_store(grid: Grid, plan: Plan) -> None:
    paths = [(0, 0, 0, 0), (0, 0, 0, 5), (0, 0, 1, 0), (0, 3, 0, 0), (7, 0, 0, 0)]
    keys = {path: list(stage_keys(plan.space.config_of(grid.params(path)), "data").values()) for path in paths}
    for first, second in itertools.combinations(paths, 2):
        for depth in range(3):
            assert (keys[first][depth] == keys[second][depth]) == (first[: depth + 1] == second[: depth + 1])


def test_every_combination_has_a_node_and_every_node_its_combination(grid: Grid, table: Table) -> None:
    for path in itertools.islice(grid.prefixes(4), 0, None, 97):
        assert table.path(grid.params(path)) == path
    assert sorted(table.names) == sorted(itertools.chain(*grid.names.values()))


def test_the_base_of_the_table_is_one_of_its_combinations(table: Table, plan: Plan) -> None:
    base = plan.base.flat()
    assert table.run(table.path({name: base[name] for name in table.names}))


def test_without_sharing_a_search_costs_the_sum_of_its_trials(table: Table) -> None:
    paths = [(0, 0, 0, 0), (0, 0, 0, 1), (2, 0, 0, 0), (6, 1, 1, 3)]
    found = Simulation(Listed([Ticket(path, path) for path in paths]), table, workers=1, budget=1e9).run()
    assert found.core_seconds == pytest.approx(sum(seconds_of(table, path) for path in paths))
    assert found.busy_seconds == pytest.approx(found.core_seconds)


def test_a_shared_stage_costs_once_and_reports_once(table: Table) -> None:
    paths = [(0, 1, 0, 0), (0, 1, 0, 4), (0, 2, 0, 0)]
    policy = Listed([keyed(index, path) for index, path in enumerate(paths)])
    found = Simulation(policy, table, workers=1, budget=1e9).run()
    first, second, third = (table.run(path) for path in paths)
    branches = second[3].seconds + sum(run.seconds for run in third[1:])
    assert found.core_seconds == pytest.approx(seconds_of(table, paths[0]) + branches)
    assert [stage for name, stage, _ in policy.reports if name == 1] == ["inference"]
    courses = [policy.ended[index] for index in range(3)]
    assert all(course is not None and course.status is Status.COMPLETE for course in courses)
    assert [course.reused for course in courses if course] == [
        [],
        ["operator", "diff_residual", "consistency_distill"],
        ["operator"],
    ]
    # what a run tells of its milestones does not depend on who trained them
    assert courses[1] is not None
    assert {key.split(":")[0] for key in courses[1].milestones} == {run.stage for run in first}


def test_an_exploded_stage_is_a_verdict_that_costs_once(table: Table) -> None:
    assert table.run((2, 0, 0, 0))[0].status is Status.EXPLODED
    policy = Listed([keyed(0, (2, 0, 0, 0)), keyed(1, (2, 1, 1, 1))])
    found = Simulation(policy, table, workers=1, budget=1e9).run()
    assert found.core_seconds == pytest.approx(table.run((2, 0, 0, 0))[0].seconds)
    assert dict(found.trials) == {"EXPLODED": 2}


def test_who_needs_what_a_stopped_trial_trained_goes_on_from_there(table: Table) -> None:
    path = (0, 0, 0, 0)
    policy = Listed([keyed(0, path), keyed(1, path)], stops={0: 3})
    found = Simulation(policy, table, workers=1, budget=1e9).run()
    assert policy.ended[0] is None
    assert found.core_seconds == pytest.approx(seconds_of(table, path))
    assert dict(found.trials) == {"PRUNED": 1, "COMPLETE": 1}


def test_idle_workers_count_against_the_budget(table: Table) -> None:
    path = (0, 0, 0, 0)
    found = Simulation(Listed([Ticket(0, path)]), table, workers=4, budget=1e9).run()
    assert found.core_seconds == pytest.approx(4 * found.busy_seconds)
    cut = Simulation(Listed([Ticket(0, path)]), table, workers=4, budget=found.core_seconds / 2).run()
    assert cut.core_seconds == pytest.approx(found.core_seconds / 2)
    assert cut.improvements == []


@pytest.mark.parametrize("strategy", search_cost.STRATEGIES)
def test_a_search_stays_in_its_budget_improves_and_repeats(strategy: str, table: Table, plan: Plan) -> None:
    found, again = (search_cost.search(table, plan, strategy, 2, BUDGET, seed=1) for _ in range(2))
    assert 0 < found["core_seconds"] <= BUDGET
    scores = [score for _, score in found["improvements"]]
    assert scores == sorted(scores, reverse=True)
    assert all(score in table.finals for score in scores)
    assert found["trained_twice"] == 0
    assert {**found, "decision_seconds": 0} == {**again, "decision_seconds": 0}


def test_reuse_trains_less_for_as_many_trials(table: Table, plan: Plan) -> None:
    shared, alone = (
        search_cost.search(table, plan, strategy, 2, BUDGET, seed=0) for strategy in ("ours, TPE", "ours, no reuse")
    )
    complete = [each["trials"]["COMPLETE"] for each in (shared, alone)]
    trained = [each["trained"]["operator"] for each in (shared, alone)]
    assert complete[0] / trained[0] > complete[1] / trained[1]


def test_rays_searcher_is_told_what_tune_would_tell_it(table: Table) -> None:
    """A raise is FAIL, which Optuna ignores; a clipped explosion is COMPLETE with the clipped value."""
    for settings, state in ((DOCUMENTED, "FAIL"), (replace(TUNED, starts_at=None), "COMPLETE")):
        policy = RayPolicy(table, settings, seed=0)
        ticket = policy.ask()
        assert ticket is not None
        policy.report(ticket, "operator", 0.125, 0.9, 1.0)
        policy.end(ticket, Course(status=Status.EXPLODED))
        study = policy._searcher._ot_study
        assert study is not None
        (told,) = [trial for trial in study.get_trials() if trial.state.is_finished()]
        assert told.state.name == state
        assert told.value == (None if state == "FAIL" else 1.0)


def test_without_a_limit_one_trial_is_proposed_ahead(table: Table) -> None:
    counts = []
    for settings in (DOCUMENTED, replace(TUNED, starts_at=None)):
        policy = RayPolicy(table, settings, seed=0)
        policy.ask()
        counts.append(len(policy._searcher._ot_trials))
    assert counts == [2, 1]


def test_time_to_is_the_first_time() -> None:
    improvements = [(10.0, 0.5), (20.0, 0.3), (30.0, 0.1)]
    assert [report.time_to(improvements, target) for target in (0.6, 0.3, 0.2, 0.05)] == [10.0, 20.0, 30.0, None]


def test_a_ratio_of_restricted_means_knows_its_censored() -> None:
    theirs: report.Times = [[None, 100.0], [100.0, 100.0]]
    ours: report.Times = [[10.0, 10.0], [10.0, 30.0]]
    found = report.restricted_ratio(theirs, ours, 200.0, paired=False)
    assert found["ratio"] == pytest.approx(125 / 15)
    assert found["low"] <= found["ratio"] <= found["high"]
    assert (found["censored"], found["medians"], found["searches"]) == ([1, 0], [100.0, 10.0], 4)
    nobody = report.restricted_ratio([[None]], [[None]], 200.0, paired=True)
    assert (nobody["ratio"], nobody["medians"], nobody["ratio_of_medians"]) == (1.0, [None, None], None)


def test_pairs_keep_their_ratio() -> None:
    theirs, ours = [[30.0, 60.0, 90.0]], [[10.0, 20.0, 30.0]]
    found = report.restricted_ratio(theirs, ours, 1e9, paired=True)
    assert found["low"] == pytest.approx(3.0)
    assert found["high"] == pytest.approx(3.0)


def test_a_table_is_told_from_another(grid: Grid) -> None:
    assert digest(made_table(grid, 0)) == digest(made_table(grid, 0))
    assert digest({**made_table(grid, 0)}) != digest({**made_table(grid, 1)})


def test_the_section_can_be_written_from_the_json(table: Table, plan: Plan) -> None:
    searches = {
        strategy: [search_cost.search(table, plan, strategy, 2, BUDGET, seed=seed) for seed in (0, 1)]
        for strategy in search_cost.STRATEGIES
    }
    about = {"commit": "abc1234", "date": "2025-01-01"}
    answers = {(name, 2, 0): {"searches": found, **about} for name, found in searches.items()}
    facts = search_cost.table_facts(table)
    protocol = {
        **{"budget": BUDGET, "full_run_seconds": 15.0, "full_runs": 20.0, "workers": 2, "other_workers": []},
        **{
            "seeds": [0, 1],
            "tried_seeds": [0, 1],
            "tuned": {"grace_period": 12.5, "reduction_factor": 3},
            "tables": {"0": facts},
        },
        "levels": {stage: len(levels) for stage, levels in table.levels.items()},
    }
    machine = {"cpu": "a", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}
    tried = {(12.5, 3, 0): answers["ray tuned", 2, 0], (25.0, 2, 0): {"searches": searches["random"]}}
    text = report.render(report.collect(protocol, answers, tried, machine))
    assert "| 25 % | 2 |" in text
    assert all(words in text for words in report.WORDS.values())

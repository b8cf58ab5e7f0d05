"""What the search itself costs: laws of the simulated clock, of the recorded landscape and of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import overhead_ray
import overhead_report
import overhead_scale
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_table import made_table
from overhead_memory import growth
from recorded_landscape import OFF, RANKS, Landscape
from replay_clock import Course, Simulation, Ticket
from replay_table import Mark, StageRun, Table
from stage_grid import Grid, write_table

from tune.checks import load_plan_from_space, random_value
from tune.study import Plan
from ups.config import stages_of
from ups.core.types import Status


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.json.gz"
    write_table(path, made_table(Grid.load()))
    return path


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan_from_space("burgers1d_small")


@pytest.fixture(scope="module")
def landscape(plan: Plan) -> Landscape:
    return Landscape(plan.space, Table(made_table(Grid.load()), 0), shortest=120.0)


class Fixed:
    """Trials of one stage and two validations, each after ten seconds, `count` of them."""

    finals = (0.0,)

    def __init__(self, count: int) -> None:
        self.left = count
        self.costs: list[float] = []

    def run(self, path: tuple[int, ...]) -> list[StageRun]:
        return [StageRun("operator", Status.COMPLETE, (Mark(10.0, 0.5, 0.2), Mark(20.0, 1.0, 0.1)), 20.0)]

    def ask(self) -> Ticket | None:
        self.left -= 1
        return Ticket(self.left, (0,)) if self.left >= 0 else None

    def report(self, ticket: Ticket, stage: str, share: float, score: float, seconds: float) -> bool:
        return False

    def stopped(self, ticket: Ticket) -> None: ...

    def end(self, ticket: Ticket, course: Course) -> None: ...


@settings(max_examples=30, deadline=None)
@given(workers=st.integers(1, 6), trials=st.integers(1, 12), cost=st.floats(0.0, 3.0))
def test_every_second_of_a_worker_is_busy_or_idle(workers: int, trials: int, cost: float) -> None:
    fixed = Fixed(trials)
    simulation = Simulation(fixed, fixed, workers=workers, budget=1e9, decision_seconds=lambda: cost)
    found = simulation.run()
    assert found.busy_seconds == pytest.approx(20.0 * trials)
    assert found.busy_seconds + found.idle_seconds == pytest.approx(workers * simulation.clock)
    # one after the other: the clock cannot be ahead of what was decided, nor of the work
    rounds = -(-trials // workers)
    assert simulation.clock >= 20.0 * rounds + cost
    if cost == 0:
        assert simulation.clock == pytest.approx(20.0 * rounds)


def test_better_ranks_have_recorded_runs_with_better_scores(landscape: Landscape) -> None:
    ranks = np.linspace(0, RANKS - 1, 60).astype(int)
    operators = [landscape.run((int(rank), OFF, OFF, OFF))[0] for rank in ranks]
    complete = [run.marks[-1].score for run in operators if run.status is Status.COMPLETE]
    assert complete == sorted(complete)
    assert len(set(complete)) == len(complete)
    assert min(run.seconds for run in operators if run.status is Status.COMPLETE) >= 120.0
    # those that do not come to their end are the last
    states = [run.status is Status.COMPLETE for run in operators]
    assert states == sorted(states, reverse=True)
    assert not all(states)


def test_a_config_has_the_stages_that_it_trains_and_its_prefix_decides_their_curves(
    plan: Plan, landscape: Landscape
) -> None:
    random = np.random.default_rng(0)
    space = plan.space
    for _ in range(20):
        values = space.draw(lambda name, domain: random_value(domain, random))
        config = space.config_of(values)
        path = landscape.path_of(config)
        assert all(rank == OFF or 0 <= rank < RANKS for rank in path)
        runs = landscape.run(path)
        expected = stages_of(config)
        names = tuple(run.stage for run in runs)
        assert names == (expected if runs[-1].status is Status.COMPLETE else expected[: len(runs)])
        other = space.config_of({**values, "ttc.enabled": False})
        assert landscape.path_of(other)[:3] == path[:3]


@pytest.mark.parametrize("count", [10, 23])
def test_growth_is_the_slope_after_the_first_tenth(count: int) -> None:
    memory = [(100 * k, 7e6 + 1e3 * (100 * k) + (5e6 if k > 0 else 0.0)) for k in range(count)]
    assert growth(memory) == pytest.approx(1e3)


def test_a_search_in_which_decisions_take_their_time(table_file: Path) -> None:
    found = overhead_scale.simulate(table_file, workers=5, trials=40, seed=0)
    assert found["trials"] <= 40
    assert sum(found["ended"].values()) <= found["trials"]
    assert found["calls"]["propose"]["calls"] == found["trials"]
    assert 0 <= found["idle_until_last_new"] <= 1
    assert 0 < found["decision"]["mean"] < found["clock_seconds"]
    traced = overhead_scale.traced(table_file, workers=5, trials=40, seed=0)
    assert [ended for ended, _ in traced["memory"]] == sorted({ended for ended, _ in traced["memory"]})


def test_searches_of_nothing_and_first_steps(ray_session: None, burgers_file: Path, tmp_path: Path) -> None:
    found = overhead_ray.searches_of_nothing(tmp_path / "nothing", rounds=1, trials=3, concurrency=2)
    assert [each["kind"] for each in found["searches"]] == ["bare", "tpe", "stage_tree"]
    assert all(0 < each["to_first_end"] < each["seconds"] for each in found["searches"])
    task = {"task.files": [str(burgers_file)], "task.train": 16, "task.validation": 4, "task.test": 4}
    fits = {"stages.operator.losses.rollout.horizon": 2, "latent.tokens": 8}
    starts = overhead_ray.first_steps(tmp_path / "starts", trials=3, overrides={**task, **fits})["starts"]
    assert starts
    for each in starts:
        assert each["total"] == pytest.approx(sum(each[part] for part in overhead_ray.PARTS))
        assert all(each[part] >= 0 for part in overhead_ray.PARTS)


def answers() -> dict[str, Any]:
    """Of jobs whose numbers are made up: our searches take 1.1 and 1.3 times as long."""
    stamp = {"commit": "abc1234", "date": "2025-01-01"}
    factors = {"bare": 1.0, "tpe": 1.1, "stage_tree": 1.3}
    searches = [
        {
            **{"round": number, "kind": kind, "seconds": factor * (20 + number), "to_first_end": 2 * factor},
            **{"between_ends": 0.04 * factor, "bytes_a_trial": 2e4},
        }
        for number in range(3)
        for kind, factor in factors.items()
    ]
    call = {"calls": 100, "mean": 0.01, "p95": 0.02, "max": 0.3}
    return {
        "nothing": {"trials": 500, "concurrency": 2, "searches": searches, **stamp},
        "start": {
            "trials": 3,
            "starts": [{"total": 0.1 * k, **dict.fromkeys(overhead_ray.PARTS, 0.025 * k)} for k in (1, 2, 9)],
            **stamp,
        },
        "scale": {
            **{"workers": 1000, "trials": 10000, "ended": {"COMPLETE": 10000}, "trained": {"operator": 900}},
            **{"clock_seconds": 700.0, "calls": dict.fromkeys(overhead_scale.KINDS, call)},
            "decision": {"mean": 0.012, "p95": 0.03, "last": 0.06, "in_vain": 0.001},
            **{"idle_until_last_new": 0.02, "idle": 0.1, "busy_with_decisions": 0.2},
            **{"memory": [[1, 2.0]], "growth_bytes": 3e4, "cpu_share": 0.99, **stamp},
        },
        "memory": {"workers": 100, "trials": 5000, "memory": [[1, 2.0]], "growth_bytes": 2e4, **stamp},
    }


def test_the_report_says_what_is_reached() -> None:
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}
    data = json.loads(json.dumps(overhead_report.collect({"shortest_seconds": 120.0}, answers(), machine)))
    assert data["ratios"]["tpe"] == pytest.approx([1.1] * 3)
    assert {name for name, aim in data["aims"].items() if not aim["reached"]} == {
        "ratio stage_tree",
        "decision, last tenth",
    }
    text = overhead_report.render(data)
    assert "| `ups search`, tpe | 23.1 | 1.10 (1.10 to 1.10) | 2.2 | 44.0 | 1.10 (1.10 to 1.10) | 20 |" in text
    assert "ratio tpe 1.1 of 1.2: reached; ratio stage_tree 1.3 of 1.2: missed" in text
    assert "median **200 ms**, at most 900 ms" in text
    assert "Note" not in text

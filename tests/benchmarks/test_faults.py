"""Faults in real searches: nothing is lost, nothing is done twice but what came after a checkpoint.

Cases that can follow each other in one study do: starting a search costs more than all of its training. A rank that is
killed, a driver that is killed amid its rungs, and a node that joins late have tests of their own elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import faults_report
import pytest
from fault_cases import CASES, HOUR_SECONDS, Case, Hit
from fault_study import INTERVAL, STEPS, TRIALS, Search, make_data, undisturbed_scores

from ups.core.artifacts import ArtifactStore

NAMED = {case.name: case for case in CASES}
MACHINE = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("faults") / "burgers.h5")


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> dict[str, float]:
    return undisturbed_scores(data)


@contextlib.contextmanager
def struck(folder: Path, data: Path, *cases: Case) -> Iterator[tuple[Search, list[Hit]]]:
    """The study of the first case after all of them, one after the other; its search has ended."""
    with cases[0].search(folder, data) as search:
        search.start()
        hits = [case.strike(search) for case in cases]
        assert search.wait() == 0, search.said()
        yield search, hits


def assert_nothing_lost(search: Search, hits: list[Hit], undisturbed: dict[str, float], *cases: Case) -> None:
    verdict = search.verdict(undisturbed)
    assert verdict.wrong == ()
    bounds = Counter[int]()
    for case, hit in zip(cases, hits, strict=True):
        bounds.update(dict.fromkeys(hit.trials, case.bound))
    assert {number: steps for number, steps in verdict.repeated.items() if steps > bounds[number]} == {}


def test_a_search_that_is_killed_stopped_filled_up_and_set_back_comes_to_the_same(
    data: Path, undisturbed: dict[str, float], tmp_path: Path
) -> None:
    # Ray's idle workers outlive a driver that is killed after its clock was set back: that comes late
    names = ("kill_trial_worker", "fill_disk", "reclaim_driver", "truncate_checkpoint", "set_clock_back")
    cases = [replace(NAMED[name], trials=TRIALS, has_clock=True) for name in (*names, "corrupt_artifact")]
    with struck(tmp_path / "search", data, *cases) as (search, hits):
        assert_nothing_lost(search, hits, undisturbed, *cases)
        created = [artifact.created for artifact in ArtifactStore(search.study / "store").ls()]
        assert min(created) < time.time() - HOUR_SECONDS / 2
        # what was corrupt was put aside, where a collection may have found it since
        assert (search.study / "store" / "damaged").is_dir()


def test_a_search_whose_only_node_is_lost_four_times_and_whose_storage_refuses_for_half_a_minute_goes_on(
    data: Path, tmp_path: Path
) -> None:
    names = ("kill_three_raylets", "refuse_writes", "reclaim_raylet")
    # all of them come upon one trial, which has to be in the midst of its training for the last one, too
    cases = [replace(NAMED[name], steps=4 * STEPS) for name in names]
    undisturbed = undisturbed_scores(data, cases[0].steps, cases[0].trials)
    with struck(tmp_path / "search", data, *cases) as (search, hits):
        assert_nothing_lost(search, hits, undisturbed, *cases)


def runs(**change: Any) -> list[dict[str, Any]]:
    """Two runs of a case, the second with a change."""
    run = {
        **{"case": "fill_disk", "code": 0, "wrong": [], "trials": 10, "states": {"COMPLETE": 10}, "hit": [1]},
        **{"seconds": 2.0, "note": "", "repeated": {"1": INTERVAL // 2}, "commit": "abc1234", "date": "2025-01-01"},
    }
    return [run, {**run, **change}]


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"seconds": 4.0}, "| 2 | 2 | 0 | 0 | 0.50 | 3.0 (4.0) |"),
        ({"repeated": {"1": INTERVAL + 4}}, "| 2 | 2 | 0 | 0 | 1.10 | 2.0 (2.0) |"),
        ({"states": {"COMPLETE": 8, "FAILED": 1}, "wrong": ["x"]}, "| 2 | 1 | 1 | 1 | 0.50 | 2.0 (2.0) |"),
        ({"code": 1}, "| 2 | 1 | 0 | 0 | 0.50 | 2.0 (2.0) |"),
    ],
)
def test_the_report_says_what_was_lost_and_what_it_cost(change: dict[str, Any], row: str) -> None:
    data = faults_report.collect({"runs": 2, "interval": INTERVAL}, runs(**change), MACHINE)
    text = faults_report.render(json.loads(json.dumps(data)))
    assert f"| disk full for 3 s {row}" in text
    assert ("kept by every case" in text) is (row.split("|")[5].strip() != "1.10")
    assert ("- fill_disk: x" in text) is ("wrong" in change)


def test_every_case_is_asked_for_once_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    answer = {**runs()[0], "scores": {}}
    monkeypatch.setattr(faults, "make_data", lambda file: file)
    monkeypatch.setattr(faults.common, "run_jobs", lambda script, jobs, lanes: asked.extend(job.name for job in jobs))
    monkeypatch.setattr(faults.Job, "answer", lambda job: {**answer, "case": job.request["case"]})
    found = faults._measure(faults._arguments(["--work", str(tmp_path), "--runs", "2"]), tmp_path)
    plain = [name for name in asked if "without a fault" in name]
    assert len(asked) == len(set(asked)) == 2 * len(CASES) + len(plain)
    assert len(plain) == len({(case.steps, case.trials) for case in CASES})
    assert [each["case"] for each in found["cases"]] == [case.name for case in CASES]

"""What a worker makes of a trial: its budget of time, and every way in which training can end."""

from __future__ import annotations

import json
import re

import pytest

from tune import worker
from tune.placement import Demand
from tune.trial import DIVERGED, Outcome
from tune.worker import _Reporter, _TimedOut, trial_function
from ups.core.types import Progress, RunResult, Status


@pytest.fixture
def reported(monkeypatch):
    """What goes to Tune."""
    found = []
    monkeypatch.setattr(worker.ray_tune, "report", found.append)
    return found


def progress(stage, share, seconds, score=None):
    return Progress(stage, 1, 4, share, 1, 0.0, 0.0, seconds, score)


def test_a_trial_has_its_time_summed_over_its_stages(reported, tmp_path):
    report = _Reporter(100.0, tmp_path)
    report(progress("operator", 0.5, 40.0, 0.5))
    report(progress("operator", 1.0, 80.0, 0.4))  # the time of a stage grows, it is not added to
    report(progress("diff_residual", 0.25, 15.0))
    with pytest.raises(_TimedOut, match=r"trained for 105 s, more than the 100 s of a trial, at 50% of diff_residual"):
        report(progress("diff_residual", 0.5, 25.0, 0.3))
    assert [each.get("score") for each in reported if "score" in each] == [0.5, 0.4]
    outcome = report.outcome(Status.TIMED_OUT, "late")
    assert (outcome.state, outcome.reason, outcome.seconds) == (Status.TIMED_OUT, "late", 105.0)
    assert outcome.milestones == {"operator:0.5": 0.5, "operator:1": 0.4, "diff_residual:0.5": 0.3}
    assert outcome.stage_seconds == {"operator": 80.0, "diff_residual": 25.0}


def test_what_a_found_stage_took_is_told_with_the_next_one(reported, tmp_path):
    found = tmp_path / "checkpoints" / "operator"
    found.mkdir(parents=True)
    (found / "result.json").write_text(json.dumps({"seconds": 40.0, "reused": True}))
    (tmp_path / "checkpoints" / "diff_residual").mkdir()
    report = _Reporter(None, tmp_path)
    report(progress("diff_residual", 0.5, 5.0, 0.5))
    report(progress("diff_residual", 1.0, 9.0, 0.4))
    assert [each["found"] for each in reported] == [{"operator": 40.0}] * 2
    outcome = report.outcome(Status.TIMED_OUT, "late")
    assert (outcome.seconds, outcome.reused_stages, outcome.reused_seconds) == (9.0, ("operator",), {"operator": 40.0})


def test_without_a_limit_a_trial_takes_what_it_takes(reported, tmp_path):
    report = _Reporter(None, tmp_path)
    for share in (0.5, 1.0):
        report(progress("operator", share, 1e9, 0.5))
    assert len(reported) == 2


@pytest.mark.parametrize("state", [*DIVERGED, Status.STALLED])
def test_how_a_run_ended_is_what_its_outcome_says(tmp_path, state):
    stages = {"operator": {"seconds": 3.0}, "diff_residual": {"seconds": 2.0}}
    result = RunResult(state, "because", None, {"operator:1": 0.5}, 5.0, 7, tmp_path, stages=stages)
    outcome = Outcome.of(result)
    assert (outcome.state, outcome.reason, outcome.score) == (state, "because", None)
    assert outcome.stage_seconds == {"operator": 3.0, "diff_residual": 2.0}
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_on_a_node_that_lacks_the_study_nothing_is_trained_and_the_search_is_told(reported, tmp_path):
    def never(*given, **how):
        raise AssertionError("trained")

    run = trial_function(tmp_path / "study", tmp_path / "store", None, never, None, 1, Demand(1, 0.0), "s")
    run({"number": 0, "params": {}})
    (told,) = reported
    assert told["done"]
    assert re.fullmatch(
        rf"{tmp_path}/study/study\.yaml: is not there on node .+; every node must share it.*", told["refused"]
    )
    assert not (tmp_path / "study").exists()

"""A whole search under Ray Tune, on made-up curves."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from dataclasses import replace

import pytest
import ray
from optuna.trial import TrialState
from ray.tune import Tuner

from tune.running import NoView
from tune.search import Summary, embedded_ray, run_search
from tune.study import OpenStudy, Plan, TrialRecord, load_study
from tune.trial import DIVERGED, run_folder
from ups.core.errors import ConfigError, UserError
from ups.core.types import Progress, RunResult, Status

pytestmark = pytest.mark.usefixtures("ray_session")
LR = "stages.operator.optimizer.lr"


def starts(folder, number):
    """`resume` of every time the trial was started."""
    return (folder / "runs" / f"{number:04d}" / "starts").read_text().split()


def test_every_trial_of_a_search_ends_where_it_belongs(make_plan, base, trainer, tmp_path, capfd):
    def curve(config, k):
        rate = config.stages.operator.optimizer.lr
        if config.latent.tokens == 32 and k == 2:
            raise ZeroDivisionError("tokens\nare cursed")
        return Status.EXPLODED if rate > 0.1 else abs(math.log(rate / 0.01)) + 1 / k

    # one of every kind for certain, whatever is sampled: the first that does not explode is behind all that are given
    starts_at = ({LR: 1.0}, *[{LR: 0.01, "latent.tokens": tokens} for tokens in (32, 16, 64)])
    plan = make_plan(trials=24, start_from=tuple(base.override(point) for point in starts_at))
    folder = tmp_path / "s"
    summary = run_search(plan, folder, trainer=trainer(curve))
    assert [record.number for record in summary.records] == list(range(24))
    expected = {Status.COMPLETE, Status.PRUNED, Status.EXPLODED, Status.FAILED}
    assert {record.state for record in summary.records} == expected
    for record in summary.records:
        assert (record.state is Status.EXPLODED) == (record.params[LR] > 0.1)
        assert starts(folder, record.number) == ["False"]
        assert (run_folder(folder, record.number) / "store").read_text() == str(folder / "store")
    assert summary.best.score < summary.base.score
    assert (summary.best.milestones["operator:1"], summary.best.parameters) == (summary.best.score, 7)
    # what nobody foresaw fails its trial alone, and its traceback is kept
    failed = next(record for record in summary.records if record.state is Status.FAILED)
    traceback = f"runs/{failed.number:04d}/traceback.txt"
    assert failed.reason == f"ZeroDivisionError: tokens (traceback in {traceback})"
    assert "are cursed" in (folder / traceback).read_text()
    # nothing but the study is left, and not a word of Ray
    assert load_study(folder).trials == summary.records
    assert sorted(os.listdir(folder)) == [".lock", "journal.log", "runs", "study.yaml", "trials.jsonl"]
    assert capfd.readouterr() == ("", "")


def test_a_killed_worker_is_replaced_until_its_trial_has_killed_three(make_plan, trainer, tmp_path, capfd):
    marker = tmp_path / "killed"

    def curve(config, k):
        if config.latent.tokens == 32 or (k == 3 and not marker.exists()):
            marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.5

    plan = make_plan(space={"latent.tokens": {"choice": [32, 16]}}, sampler="grid", trials=3)
    plan = Plan(plan.config.override({"resources.concurrency": 1}), plan.base, plan.start_from)
    summary = run_search(plan, tmp_path / "s", trainer=trainer(curve))
    base, killer, last = summary.records
    assert (base.state, base.milestones["operator:1"]) == (Status.COMPLETE, 0.5)
    assert (killer.state, killer.reason) == (Status.FAILED, "its process died 3 times")
    # and the search goes on
    assert (last.state, summary.stop_reason) == (Status.COMPLETE, None)
    # both are started again as resumes
    assert starts(tmp_path / "s", 1) == ["False", "True", "True"]
    assert starts(tmp_path / "s", 0) == ["False", "True"]
    assert capfd.readouterr() == ("", "")


class StopAt(NoView):
    """Ends the search when so many trials have ended, as a signal would."""

    def __init__(self, count):
        self.count = count

    def ended(self, record, snapshot):
        if snapshot.ended == self.count:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_search_is_resumed_to_the_number_of_trials_asked_for(make_plan, trainer, tmp_path, monkeypatch):
    plan = make_plan(trials=9, scheduler="none")
    slow = trainer(lambda config, k: 0.5, seconds=0.1)
    first = run_search(plan, tmp_path / "s", trainer=slow, view=StopAt(3))
    assert first.signalled
    assert first.stop_reason == "interrupted by SIGINT"
    assert first.count(Status.COMPLETE) == 3
    interrupted = [record.number for record in first.records if record.state is Status.INTERRUPTED]
    started = [number for number in interrupted if (run_folder(tmp_path / "s", number) / "starts").exists()]
    assert 0 < len(interrupted) <= 3
    second = run_search(plan, tmp_path / "s", trainer=slow, resume=True)
    assert [record.state for record in second.records] == [Status.COMPLETE] * 9
    for record in first.records:
        assert record.number in interrupted or second.records[record.number] == record
        again = ["True"] * (record.number in started)
        # one that was interrupted before it began may have begun a moment later, before its worker was gone
        late = [["True"]] * (record.number in interrupted)
        assert starts(tmp_path / "s", record.number) in (["False", *more] for more in (again, *late))
        assert second.records[record.number].params == record.params
    # nothing is left to do, and no worker is asked for
    monkeypatch.setattr(Tuner, "fit", None)
    assert run_search(plan, tmp_path / "s", trainer=slow, resume=True).records == second.records


def test_a_spent_time_budget_interrupts_what_runs(make_plan, trainer, tmp_path):
    plan = make_plan(trials=200, scheduler="none")
    config = plan.config.override({"budget.time": "3s"})
    rate = plan.base.stages.operator.optimizer.lr

    def curve(config, k):
        if config.stages.operator.optimizer.lr != rate:
            time.sleep(3600)  # whoever waited for it would not be back today
        return 0.5

    summary = run_search(type(plan)(config, plan.base), tmp_path / "s", trainer=trainer(curve))
    assert summary.stop_reason == "the time budget is spent"
    # of the two workers one may have come to the end of the base, and then taken up what does not end
    assert {record.state for record in summary.records[:1]} <= {Status.COMPLETE, Status.INTERRUPTED}
    assert {record.state for record in summary.records[1:]} <= {Status.INTERRUPTED}
    assert len(summary.records) <= 3


def test_explosion_rates_are_of_sampled_trials_that_trained(make_plan, tmp_path):
    def record(number, state, origin="sampled"):
        return TrialRecord(number, state, None, "", {}, 0.0, (), {}, None, origin)

    states = [Status.EXPLODED, Status.COMPLETE, Status.INFEASIBLE, Status.NOT_FINITE, Status.EXPLODED, Status.PRUNED]
    records = (record(0, Status.EXPLODED, "base"), *(record(1 + n, state) for n, state in enumerate(states)))
    config = make_plan().config
    summary = Summary(tmp_path, records, 7, 1.0, None, False, config)
    assert summary.explosion_rates() == (0.5, 2 / 3)
    assert Summary(tmp_path, records[:2], 7, 1.0, None, False, config).explosion_rates() is None


def test_every_way_to_diverge_reaches_its_record_and_what_optuna_is_told(make_plan, tmp_path):
    states = (*DIVERGED, Status.STALLED, Status.COMPLETE)
    rates = [0.01 * (1 + number) for number in range(len(states))]
    ends = dict(zip(rates, states, strict=True))

    def train(config, out, report, *, resume, evaluate_on, store, busy):
        out.mkdir(parents=True, exist_ok=True)
        state = ends.get(config.stages.operator.optimizer.lr, Status.COMPLETE)
        milestones = {}
        for k in range(1, 5):
            # the last of these would be beyond the budget of a trial
            seconds = 30.0 * k if state is Status.TIMED_OUT else float(k)
            report(Progress("operator", k, 4, k / 4, k, 0.0, 0.0, seconds, 0.5))
            milestones[f"operator:{k / 4:g}"] = 0.5
            if k == 2 and state is Status.INFEASIBLE:
                raise ConfigError("does not fit the data")
            if k == 2 and state not in (Status.TIMED_OUT, Status.COMPLETE):
                stages = {"operator": {"seconds": 2.0}}
                return RunResult(state, f"made up as {state}", None, milestones, 2.0, 7, out, stages=stages)
        return RunResult(Status.COMPLETE, "", 0.5, milestones, 4.0, 7, out)

    plan = make_plan(space={LR: {"choice": rates}}, sampler="grid", trials=1 + len(rates))
    plan = replace(plan, config=plan.config.override({"budget.trial": "100s"}))
    folder = tmp_path / "s"
    records = run_search(plan, folder, trainer=train).records
    assert [record.state for record in records] == [Status.COMPLETE, *states]
    reasons = {record.state: record.reason for record in records}
    late = "trained for 120 s, more than the 100 s of a trial, at 100% of operator"
    assert reasons == {
        **{state: f"made up as {state}" for state in states},
        Status.COMPLETE: "",
        Status.INFEASIBLE: "does not fit the data",
        Status.TIMED_OUT: late,
    }
    with OpenStudy(folder, plan, resume=True) as study:
        told = {trial.user_attrs["state"]: trial for trial in study.optuna.get_trials()}
    for verdict in DIVERGED:
        violated = {name for name, excess in told[verdict].constraints.items() if excess > 0}
        assert (told[verdict].state, violated) == (TrialState.COMPLETE, {verdict.lower()})
    assert told[Status.STALLED].state is TrialState.PRUNED


def test_a_ray_that_does_not_start_is_one_line(monkeypatch, tmp_path):
    # whose processes did not come up in time; the session's own stays
    def init(**settings):
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    for name, fake in {"is_initialized": lambda: False, "init": init, "shutdown": lambda: None}.items():
        monkeypatch.setattr(ray, name, fake)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: path == str(tmp_path))
    with pytest.raises(UserError) as told, embedded_ray(2):
        pass
    assert str(told.value) == (
        "Ray does not start here (The current node timed out during startup.); see that the machine is not overloaded"
    )
    assert list(tmp_path.iterdir()) == []

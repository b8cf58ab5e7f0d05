"""The trials of a search at wandb: one page each, in the group of the study, with its end; and no harm of it."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace

import pytest
from wandb_files import Page, pages

from tune.search import run_search
from tune.study import OpenStudy
from tune.trial import Outcome
from tune.verdict import drop_verdict, leave_verdict, read_verdict
from ups.core import tracking
from ups.core.types import Status

SPACE = {"latent.tokens": {"choice": [16, 32]}}


@pytest.fixture
def plan(make_plan):
    plan = make_plan(SPACE, trials=3, sampler="grid", milestones={"operator": [0.5, 1]}, keep=0.5)
    return replace(plan, base=plan.base.override({"logging.wandb.mode": "offline", "logging.wandb.project": "p"}))


def page_of(run):
    """Its page, as soon as that has an end: Tune does not wait for the process of what it stopped last."""
    deadline = time.monotonic() + 120
    while True:
        (page,) = pages(run) or [Page()]
        if page.code is not None or time.monotonic() > deadline:
            return page
        time.sleep(0.1)


@pytest.mark.usefixtures("ray_session")
def test_every_trial_has_a_page_with_its_end(plan, trainer, tmp_path, capfd):
    def curve(config, k):
        tracking.START_SECONDS = tracking.END_SECONDS = 120.0  # of this worker: a busy machine is slow to start wandb
        if config.latent.tokens == 16 and k == 2:
            return Status.EXPLODED
        return (2.0 if config.latent.tokens == 32 else 1.0) / k

    plan = replace(plan, config=plan.config.override({"resources.concurrency": 1}))
    summary = run_search(plan, tmp_path / "s", trainer=trainer(curve))
    assert {record.state for record in summary.records} == {Status.COMPLETE, Status.PRUNED, Status.EXPLODED}
    for record in summary.records:
        page = page_of(tmp_path / "s" / "runs" / f"{record.number:04d}")
        assert (page.name, page.group, page.kind, page.project) == (f"trial {record.number}", "s", "trial", "p")
        assert (page.summary["status"], page.summary["reason"]) == (str(record.state), record.reason)
        assert page.summary["score"] == record.score
        assert page.config["latent"]["tokens"] == record.params.get("latent.tokens", plan.base.latent.tokens)
        measured = [row["operator/rollout_nrmse"] for row in page.history]
        assert measured == list(record.milestones.values())
        assert page.code == (1 if record.state is Status.EXPLODED else 0)
    deadline = time.monotonic() + 120
    while list((tmp_path / "s" / "runs").glob("*.verdict")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list((tmp_path / "s" / "runs").glob("*.verdict"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("ray_session")
def test_a_wandb_that_fails_is_said_once_and_costs_no_trial(plan, trainer, tmp_path):
    stub = tmp_path / "stub" / "wandb"
    stub.mkdir(parents=True)
    count = tmp_path / "begun"
    (stub / "__init__.py").write_text(
        f"def Settings(**given): return None\ndef init(**given):\n"
        f"    open({str(count)!r}, 'a').write('x')\n    raise OSError('no server')\n"
    )

    def curve(config, k):
        tracking.START_SECONDS = tracking.END_SECONDS = 120.0
        os.environ["PYTHONPATH"] = str(stub.parent)  # of what this worker starts
        return 1.0 / k

    plan = replace(plan, config=plan.config.override({"strategy.scheduler": "none", "resources.concurrency": 1}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        summary = run_search(plan, tmp_path / "s", trainer=trainer(curve))
    assert {record.state for record in summary.records} == {Status.COMPLETE}
    lines = [str(each.message) for each in said if "wandb" in str(each.message)]
    assert lines == ["wandb: OSError: no server; no further trial is shown there"]
    assert count.read_text() == "x"


def test_a_study_may_be_resumed_with_another_page(plan, tmp_path):
    with OpenStudy(tmp_path / "s", plan, resume=False):
        pass
    other = replace(plan, base=plan.base.override({"logging.wandb.mode": "off"}))
    with OpenStudy(tmp_path / "s", other, resume=True) as study:
        assert study.plan.base.logging.wandb.mode == "off"


def test_a_verdict_stays_until_it_was_said(tmp_path):
    outcome = Outcome(Status.PRUNED, 0.5, "behind", {"operator:0.5": 0.5})
    (tmp_path / "runs").mkdir()
    leave_verdict(tmp_path, 3, outcome)
    found = read_verdict(tmp_path, 3)
    assert found is not None
    assert (found["status"], found["reason"], found["score"]) == ("PRUNED", "behind", 0.5)
    for _ in range(2):
        drop_verdict(tmp_path, 3)
    assert read_verdict(tmp_path, 3) is None

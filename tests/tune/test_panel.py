"""The panel of a search: everything is on it, on screens of every size, and it does not jump."""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_search import COSTS, EPOCHS, LR, STAGED, THREE, MadeUpSearch
from rich.console import Console

from tune.objectives import Reference
from tune.panel import PanelView, SearchPanel
from tune.running import Account, NoView, Running, Snapshot
from tune.study import TrialRecord
from tune.trial import Trial
from ups.cli.terminal import can_redraw
from ups.core.types import Status

PARAMS = {
    "latent.tokens": 32,
    "operator.mixer": "spectral",
    "stages.operator.losses.inverse_encoding.weight": 0.00374,
    "stages.operator.losses.rollout.warmup": 0.327,
    LR: 0.0116,
    EPOCHS: 3,
    "stages.diff_residual.optimizer.lr": 2e-4,
    "ttc.reward.kind": "adaptive",
}
ENDS = [state for state in Status if state is not Status.RUNNING]
STAGES = ("operator", "diff_residual", "consistency_distill")


def record(number, state, score, reason="", origin="sampled", params=PARAMS):
    return TrialRecord(number, state, score, reason, dict(params), 3.0, (), {}, 100, origin)


def snapshot(busy=2, slots=2, ends=ENDS, best=True, stage="operator", share=0.5, waiting=0):
    running = tuple(
        Running(Trial(100 + i, PARAMS), 9, stage, share, 12, 0.0351, since=0.0, stages=STAGES, stage_seconds={stage: 9})
        for i in range(busy)
    )
    golden = record(1, Status.COMPLETE, 0.08, origin="golden.yaml")
    return Snapshot(
        wanted=400,
        states=Counter(dict.fromkeys(ends, 7)),
        running=running,
        waiting=waiting,
        slots=slots,
        best=record(28, Status.COMPLETE, 0.06) if best else None,
        reference=Reference(golden, "golden") if best else None,
        account=Account(3700.0, 1480.0, Counter(operator=12, diff_residual=4), 0),
        cores=2,
        now=75.0,
        elapsed_seconds=100.0,
        left_seconds=4000.0,
    )


def lines(found, width=80, height=24, panel=None, age=0.0):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print((panel or SearchPanel("runs/x")).of(found, age))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50)])
def test_everything_is_on_the_panel(size):
    text = "\n".join(lines(snapshot(waiting=3), *size))
    for part in (
        "70 of 400",
        "1 min 40 s, about 1 h 6 min left",
        *(f"{state} 7" for state in ENDS),
        "RUNNING 2",
        "3 waiting for a stage",
        "0.06, trial 28, -25.0% to the golden's 0.08",
        "tokens 32  mixer spectral",
        # two of 9 s run, on two cores each
        "7,436 core-seconds spent, 2,960 saved by reuse (28% of the whole)",
        "16 stages: operator 12, diff_residual 4",
    ):
        assert part in text
    parts = ("operator", "50%", "12", "0.0351", "1 min 15 s")
    assert sum(all(part in line for part in parts) for line in text.splitlines()) == 2


@given(
    st.integers(0, 70),
    st.integers(1, 64),
    st.sets(st.sampled_from(ENDS)),
    st.booleans(),
    st.integers(30, 210),
    st.integers(5, 60),
)
def test_it_fits_on_every_screen_and_leaves_the_line_of_the_cursor(busy, slots, ends, best, width, height):
    found = lines(snapshot(busy, slots, sorted(ends), best), width, height)
    assert len(found) <= height
    assert max(map(len, found)) <= width
    assert found[-1].strip() == ""
    assert found[-2].startswith("╰")


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(STAGES), st.integers(0, 500)), min_size=1, max_size=5))
def test_it_keeps_its_height_whatever_runs(moments):
    panel = SearchPanel("runs/x")
    heights = {
        len(lines(snapshot(busy, 6, best=seconds > 100, stage=stage), panel=panel, age=seconds, height=40))
        for busy, stage, seconds in moments
    }
    assert len(heights) == 1


def test_of_many_workers_it_shows_what_fits_and_counts_the_rest():
    found = lines(snapshot(64, 64), height=24)
    shown = sum(" operator " in line and "50%" in line for line in found)
    assert shown >= 8
    assert any(f"and {64 - shown} more" in line for line in found)


def test_what_a_worker_is_at_when_a_stage_has_ended():
    def at(stage, share):
        return Running(Trial(1, {}), 1, stage, share, stages=STAGES).at

    assert at("", 0.0) == ("starting", None)
    assert at("operator", 0.5) == ("operator", 0.5)
    assert at("operator", 1.0) == ("diff_residual", None)
    assert at("consistency_distill", 1.0) == ("ending", None)


def test_the_panel_follows_the_search_and_goes_away_but_a_failure_stays():
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True, _environ={"TERM": "xterm"})
    reason = "ValueError: [b]no[/b] (traceback in runs/0003/traceback.txt)"
    with PanelView("runs/x", console) as view:
        view.progress(snapshot())
        view.ended(record(3, Status.FAILED, None, reason), snapshot())
    text = console.file.getvalue()
    assert "70 of 400" in text
    assert f"trial 3 FAILED: {reason}" in text
    assert text.endswith("\x1b[2K")  # the last thing that is done is to erase


@pytest.mark.parametrize(
    ("environment", "is_tty", "expected"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, False, False),
    ],
)
def test_only_a_terminal_that_can_is_redrawn(environment, is_tty, expected):
    class Stream(io.StringIO):
        def isatty(self):
            return is_tty

    assert can_redraw(Console(file=Stream(), _environ=environment)) is expected


def test_without_colours_there_are_none():
    environment = {"TERM": "xterm", "NO_COLOR": "1"}
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, _environ=environment)
    console.print(SearchPanel("runs/x").of(snapshot()))
    assert "\x1b[3" not in console.file.getvalue().replace("\x1b[39m", "")


def score(values, stage):
    if stage == "operator" and values[LR] > 1.0:
        return Status.EXPLODED
    return {"operator": 0.5, "diff_residual": 0.4}.get(stage, 0.3) + values[LR] / 100


class Accounts(NoView):
    """What was spent, saved and reused, whenever the search was shown."""

    def __init__(self):
        self.seen = []

    def progress(self, snapshot):
        self.seen.append((snapshot.spent_core_seconds, snapshot.saved_core_seconds, snapshot.reused.total()))


def test_what_a_search_spends_and_saves_adds_up(make_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    view = Accounts()
    plan = make_plan(space=THREE, sampler="stage_tree", trials=40, startup_trials=6, milestones=STAGED)
    plan = replace(plan, config=plan.config.override({"resources.cpus_per_worker": 3}))
    with MadeUpSearch(plan, tmp_path / "s", score, view=view) as search:
        records = search.run()
        end = search.driver.snapshot()
    assert end.spent_core_seconds == pytest.approx(3 * search.spent)
    saved = [COSTS[stage] for each in records for stage in each.reused_stages if stage in COSTS]
    assert len(saved) > 5
    assert end.saved_core_seconds == pytest.approx(3 * sum(saved))
    assert end.reused.total() == len(saved)
    assert end.account.unpriced == 0
    for earlier, later in pairwise(view.seen):
        assert all(before <= after + 1e-9 for before, after in zip(earlier, later, strict=True))
    # whoever takes the search up again knows what was spent and saved before
    with MadeUpSearch(plan, tmp_path / "s", score, resume=True) as search:
        again = search.driver.snapshot()
    assert (again.spent_core_seconds, again.saved_core_seconds) == (end.spent_core_seconds, end.saved_core_seconds)
    assert again.reused == end.reused


def test_stages_of_unknown_cost_are_counted_and_not_priced():
    account = Account()
    account.add(replace(record(3, Status.COMPLETE, 0.1), reused_stages=("operator",)))
    account.add(replace(record(4, Status.COMPLETE, 0.1), reused_stages=("operator",), reused_seconds={"operator": 5.0}))
    assert (account.reused, account.saved_seconds, account.unpriced) == (Counter(operator=2), 5.0, 1)
    text = "\n".join(lines(replace(snapshot(), account=account)))
    assert "2 stages: operator 2 (1 of unknown cost)" in text

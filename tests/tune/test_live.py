"""What a person sees of a search."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tune.live import LineView, PanelView, panel, short_names, shown_seconds
from tune.running import Running, Snapshot
from tune.study import TrialRecord
from tune.trial import Trial
from ups.core.types import Status

LR = "stages.operator.optimizer.lr"


def record(number, state, score, reason="", **params):
    return TrialRecord(number, state, score, reason, params, 3.0, (), {}, 100)


BASE = record(0, Status.COMPLETE, 0.4)
BEST = record(3, Status.COMPLETE, 0.3, **{LR: 0.00123456, "latent.tokens": 32})
SNAPSHOT = Snapshot(
    wanted=40,
    states={Status.COMPLETE: 4, Status.EXPLODED: 2},
    running=(
        Running(Trial(6, {LR: 0.01}), 100, "operator", 0.5, 0.35),
        Running(Trial(7, {LR: 0.02}), 100, "consistency_distill", 0.25, 0.31),
    ),
    best=BEST,
    base=BASE,
    elapsed_seconds=65.0,
    left_seconds=4000.0,
)


def test_the_panel_shows_states_best_delta_and_what_runs():
    console = Console(file=io.StringIO(), width=120)
    console.print(panel(SNAPSHOT))
    text = console.file.getvalue()
    for part in (
        "6 of 40 trials",
        "COMPLETE 4",
        "EXPLODED 2",
        "RUNNING 2",
        "1 min 5 s so far, about 1 h 6 min left",
        "best 0.3, trial 3, -25.0% to the base's 0.4",
        "lr 0.00123  tokens 32",
        "operator",
        "0.35",
        "consistency_distill",
        "0.31",
    ):
        assert part in text


def test_the_panel_follows_the_search_and_goes_away():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with PanelView("runs/x", console) as view:
        view.progress(SNAPSHOT)
        view.ended(BEST, SNAPSHOT)
    assert "6 of 40 trials" in console.file.getvalue()


def test_without_a_terminal_every_trial_is_a_line():
    stream = io.StringIO()
    view = LineView(stream)
    view.progress(SNAPSHOT)
    view.ended(record(5, Status.EXPLODED, None, "gradient norm 1e9 at step 3 of operator"), SNAPSHOT)
    (line,) = stream.getvalue().splitlines()
    for part in ("trial 5", "EXPLODED", "6 of 40", "best 0.3 (trial 3)", "1 h 6 min left", "gradient norm 1e9"):
        assert part in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0 s"), (59.4, "59 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")]
)
def test_seconds(seconds, text):
    assert shown_seconds(seconds) == text


PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True)


@given(PATHS)
def test_short_names_are_unique_ends(paths):
    names = short_names(paths)
    assert len(set(names.values())) == len(paths)
    assert all(path == names[path] or path.endswith(f".{names[path]}") for path in paths)

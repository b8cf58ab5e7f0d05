"""What a person sees of a search."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.live import LineView, best_line, fitted_params, short_names, shown_params, shown_seconds
from tune.objectives import Reference
from tune.running import Account, Snapshot
from tune.study import TrialRecord
from ups.core.types import Status

LR = "stages.operator.optimizer.lr"


def record(number, state, score, reason="", **params):
    return TrialRecord(number, state, score, reason, params, 3.0, (), {}, 100)


BASE = record(0, Status.COMPLETE, 0.4)
BEST = record(3, Status.COMPLETE, 0.3, **{LR: 0.00123456, "latent.tokens": 32})
SNAPSHOT = Snapshot(
    wanted=40,
    states={Status.COMPLETE: 4, Status.EXPLODED: 2},
    running=(),
    waiting=0,
    slots=2,
    best=BEST,
    reference=Reference(BASE, "base"),
    account=Account(),
    cores=1,
    now=65.0,
    elapsed_seconds=65.0,
    left_seconds=4000.0,
)


def test_without_a_terminal_every_trial_is_a_line():
    stream = io.StringIO()
    view = LineView(stream)
    view.progress(SNAPSHOT)
    view.ended(record(5, Status.EXPLODED, None, "gradient norm 1e9 at step 3 of operator"), SNAPSHOT)
    (line,) = stream.getvalue().splitlines()
    for part in ("trial 5", "EXPLODED", "6 of 40", "best 0.3 (trial 3)", "1 h 6 min left", "gradient norm 1e9"):
        assert part in line


def test_the_best_is_measured_with_the_golden_or_the_base():
    assert best_line(BEST, Reference(BASE, "golden")) == "0.3, trial 3, -25.0% to the golden's 0.4"
    assert best_line(BASE, Reference(BASE, "base")) == "0.4, trial 0, the base itself"
    assert best_line(BEST, None) == "0.3, trial 3"


@given(
    st.dictionaries(st.text("abcdefg.", min_size=1, max_size=12), st.integers(0, 9999), max_size=9),
    st.integers(20, 90),
    st.integers(1, 3),
)
def test_parameters_are_cut_to_what_fits_and_the_rest_is_counted(params, width, lines):
    found = fitted_params(params, width, lines)
    assert len(found) <= lines
    assert all(len(line) <= width for line in found)
    words = [word for line in found for word in line.split("  ")]
    whole = shown_params(params).split("  ") if params else []
    kept = [word for word in words if not word.startswith("and ")]
    assert kept == whole[: len(kept)]
    assert words[len(kept) :] == ([] if len(kept) == len(whole) else [f"and {len(whole) - len(kept)} more"])


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

"""Laws of milestone ASHA, on made-up scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.scheduler import MilestoneAsha

SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=40)
KEEP = st.sampled_from([0.2, 0.25, 0.33, 0.5, 0.8, 1.0])


def asha(keep=0.33):
    return MilestoneAsha({"operator": (0.25, 0.5, 1.0), "distill": (1.0,)}, keep)


@given(scores=SCORES, keep=KEEP)
def test_the_best_of_all_is_never_stopped(scores, keep):
    rungs = asha(keep)
    for number, score in enumerate(scores):
        if rungs.judge(number, 0, score).stop:
            assert score > min(scores[: number + 1])


@given(scores=SCORES, better=st.floats(0, 10), worse=st.floats(0, 10))
def test_a_better_score_never_fares_worse(scores, better, worse):
    better, worse = sorted((better, worse))
    verdicts = []
    for score in (better, worse):
        rungs = asha()
        for number, other in enumerate(scores):
            rungs.record(number, 0, other)
        verdicts.append(rungs.judge(99, 0, score).stop)
    assert verdicts[0] <= verdicts[1]


@given(scores=SCORES, newcomer=st.floats(0, 10), seed=st.integers(0, 99))
def test_the_order_of_earlier_arrivals_does_not_matter(scores, newcomer, seed):
    shuffled = list(np.random.default_rng(seed).permutation(scores))
    verdicts = []
    for earlier in (scores, shuffled):
        rungs = asha()
        for number, score in enumerate(earlier):
            rungs.record(number, 0, score)
        verdicts.append(rungs.judge(99, 0, newcomer))
    assert verdicts[0] == verdicts[1]


@given(scores=SCORES)
def test_milestones_do_not_see_each_other(scores):
    rungs = asha()
    for number, score in enumerate(scores):
        rungs.record(number, 0, score)
    assert rungs.arrivals(1) == ()
    assert not rungs.judge(99, 1, 1e9).stop


def test_about_the_kept_share_of_equals_goes_on():
    random = np.random.default_rng(0)
    rungs = asha(keep=0.33)
    stopped = [rungs.judge(number, 0, score).stop for number, score in enumerate(random.random(2000))]
    assert 0.30 < 1 - np.mean(stopped) < 0.37


def test_nobody_is_stopped_before_enough_have_arrived():
    rungs = asha(keep=0.25)
    assert [rungs.judge(number, 0, score).stop for number, score in enumerate([1, 2, 3, 4, 5])] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_everybody_goes_on_when_all_are_kept_and_at_the_end_of_its_own_stages():
    everything, ending, going_on = asha(keep=1.0), asha(), asha()
    for number, score in enumerate(range(30)):
        assert not everything.judge(number, 0, score).stop
        assert not ending.judge(number, 2, score, at_end=True).stop
        going_on.judge(number, 2, score)
    # those that ended are compared with all the same
    assert ending.arrivals(2) == going_on.arrivals(2) == tuple(range(30))
    assert going_on.judge(99, 2, 29.5).stop


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes_and_never_stands_on_a_rung(score):
    rungs = asha()
    assert rungs.judge(0, 0, score).stop
    assert rungs.arrivals(0) == ()


def test_the_protected_are_compared_with_but_never_stopped():
    rungs = asha()
    for number in range(9):
        rungs.judge(number, 0, float(number))
    assert not rungs.judge(9, 0, 1e9, protected=True).stop
    assert rungs.arrivals(0)[-1] == 1e9


def test_a_trial_is_judged_once_at_a_milestone():
    rungs = asha()
    for number in range(9):
        rungs.judge(number, 0, float(number))
    before = rungs.arrivals(0)
    assert not rungs.judge(8, 0, 1e9).stop
    assert rungs.arrivals(0) == before


@given(scores=SCORES)
def test_rungs_that_are_recorded_again_decide_as_before(scores):
    lived, rebuilt = asha(), asha()
    for number, score in enumerate(scores):
        lived.judge(number, 0, score)
    for number, score in reversed(list(enumerate(scores))):
        rebuilt.record(number, 0, score)
    assert rebuilt.arrivals(0) == lived.arrivals(0)
    assert rebuilt.judge(99, 0, 5.0) == lived.judge(99, 0, 5.0)


def test_only_exact_shares_are_milestones():
    rungs = asha()
    assert rungs.milestone("operator", 2 / 8).index == 0
    assert rungs.milestone("operator", 3 / 8) is None
    assert rungs.milestone("distill", 1.0).index == 3


def test_a_stop_says_why():
    rungs = asha()
    for number in range(8):
        rungs.judge(number, 1, float(number))
    assert rungs.judge(8, 1, 7.5).reason == (
        "score 7.5 at operator:0.5 is number 9 of 9 that arrived; the best 3 go on, up to 2"
    )

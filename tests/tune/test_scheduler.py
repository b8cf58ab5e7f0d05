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


def arrive(rungs, number, index, score, **how):
    """Judged, then recorded."""
    verdict = rungs.judge(number, index, score, **how)
    rungs.record(number, index, score)
    return verdict


@given(scores=SCORES, keep=KEEP)
def test_the_best_of_all_is_never_stopped(scores, keep):
    rungs = asha(keep)
    for number, score in enumerate(scores):
        if arrive(rungs, number, 0, score).stop:
            assert score > min(scores[: number + 1])


@given(scores=SCORES, better=st.floats(0, 10), worse=st.floats(0, 10))
def test_a_better_score_never_fares_worse(scores, better, worse):
    better, worse = sorted((better, worse))
    verdicts = []
    for score in (better, worse):
        rungs = asha()
        for number, other in enumerate(scores):
            rungs.record(number, 0, other)
        verdicts.append(arrive(rungs, 99, 0, score).stop)
    assert verdicts[0] <= verdicts[1]


@given(scores=SCORES, newcomer=st.floats(0, 10), seed=st.integers(0, 99))
def test_the_order_of_earlier_arrivals_does_not_matter(scores, newcomer, seed):
    shuffled = list(np.random.default_rng(seed).permutation(scores))
    verdicts = []
    for earlier in (scores, shuffled):
        rungs = asha()
        for number, score in enumerate(earlier):
            rungs.record(number, 0, score)
        verdicts.append(arrive(rungs, 99, 0, newcomer))
    assert verdicts[0] == verdicts[1]


@given(scores=SCORES)
def test_milestones_do_not_see_each_other(scores):
    rungs = asha()
    for number, score in enumerate(scores):
        rungs.record(number, 0, score)
    assert rungs.arrivals(1) == ()
    assert not arrive(rungs, 99, 1, 1e9).stop


def test_about_the_kept_share_of_equals_goes_on():
    random = np.random.default_rng(0)
    rungs = asha(keep=0.33)
    stopped = [arrive(rungs, number, 0, score).stop for number, score in enumerate(random.random(2000))]
    assert 0.30 < 1 - np.mean(stopped) < 0.37


def test_nobody_is_stopped_before_enough_have_arrived():
    rungs = asha(keep=0.25)
    assert [arrive(rungs, number, 0, score).stop for number, score in enumerate([1, 2, 3, 4, 5])] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_everybody_goes_on_when_all_are_kept_and_at_the_end_of_its_own_stages():
    everything, ending, going_on = asha(keep=1.0), asha(), asha()
    for number, score in enumerate(range(30)):
        assert not arrive(everything, number, 0, score).stop
        assert not arrive(ending, number, 2, score, at_end=True).stop
        arrive(going_on, number, 2, score)
    # those that ended are compared with all the same
    assert ending.arrivals(2) == going_on.arrivals(2) == tuple(range(30))
    assert arrive(going_on, 99, 2, 29.5).stop


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes_and_never_stands_on_a_rung(score):
    rungs = asha()
    assert arrive(rungs, 0, 0, score).stop
    assert rungs.arrivals(0) == ()


def test_the_protected_are_compared_with_but_never_stopped():
    rungs = asha()
    for number in range(9):
        arrive(rungs, number, 0, float(number))
    assert not arrive(rungs, 9, 0, 1e9, protected=True).stop
    assert rungs.arrivals(0)[-1] == 1e9


@given(scores=SCORES, later=st.floats(0, 10))
def test_a_trial_stands_on_a_rung_once_and_counts_itself_once(scores, later):
    judged_before, judged_after = asha(), asha()
    for number, score in enumerate(scores):
        judged_before.record(number, 0, score)
        judged_after.record(number, 0, score)
    verdict = judged_before.judge(99, 0, later)
    judged_after.record(99, 0, later)
    assert judged_after.judge(99, 0, later) == verdict
    arrived = judged_after.arrivals(0)
    judged_after.record(99, 0, later / 2)
    assert judged_after.arrivals(0) == arrived


@given(st.lists(st.tuples(st.floats(0.1, 10), st.sampled_from([10.0, 100.0, 1000.0])), min_size=1, max_size=30))
def test_where_weights_count_only_those_are_better_that_are_so_in_both(arrivals):
    rungs = asha()
    for number, (score, weights) in enumerate(arrivals):
        verdict = rungs.judge(number, 0, score, weights=weights)
        better = sum(other < score and size <= weights for other, size in arrivals[:number])
        places = max(1, math.floor(0.33 * (number + 1) + 0.5))
        assert verdict.stop == (number + 1 >= rungs.minimum_arrivals and better >= places)
        rungs.record(number, 0, score, weights)


@given(scores=SCORES)
def test_rungs_that_are_recorded_again_decide_as_before(scores):
    lived, rebuilt = asha(), asha()
    for number, score in enumerate(scores):
        arrive(lived, number, 0, score)
    for number, score in reversed(list(enumerate(scores))):
        rebuilt.record(number, 0, score)
    assert rebuilt.arrivals(0) == lived.arrivals(0)
    assert arrive(rebuilt, 99, 0, 5.0) == arrive(lived, 99, 0, 5.0)


def test_only_exact_shares_are_milestones():
    rungs = asha()
    assert rungs.milestone("operator", 2 / 8).index == 0
    assert rungs.milestone("operator", 3 / 8) is None
    assert rungs.milestone("distill", 1.0).index == 3


def test_a_stop_says_why():
    rungs = asha()
    for number in range(8):
        arrive(rungs, number, 1, float(number))
    assert arrive(rungs, 8, 1, 7.5).reason == (
        "score 7.5 at operator:0.5 is number 9 of 9 that arrived; the best 3 go on, up to 2"
    )

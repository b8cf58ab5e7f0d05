"""Laws of the two-way resampling interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.confirm import Comparison, compare, seed_deviation
from ups.evaluation import paired


@pytest.fixture(autouse=True, scope="module")
def fewer_resamples():
    """The laws hold for any number of resamples that is not tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "RESAMPLES", 1_000)
        yield


def crossed(random, seeds, trajectories, *, gain=0.0, seed_sd=0.01, trajectory_sd=0.02, rest_sd=0.01):
    """Errors of challenger and reference, (N, S), whose difference has independent effects of both factors."""
    reference = 0.5 + random.normal(0, 0.1, (1, trajectories)) + random.normal(0, 0.05, (seeds, 1))
    difference = (
        gain
        + random.normal(0, seed_sd, (seeds, 1))
        + random.normal(0, trajectory_sd, (1, trajectories))
        + random.normal(0, rest_sd, (seeds, trajectories))
    )
    return reference - difference, reference + np.zeros((seeds, trajectories))


@pytest.mark.parametrize(("seeds", "floor"), [(20, 0.88), (5, 0.80), (3, 0.70)])
def test_interval_covers_the_true_difference(seeds, floor):
    random = np.random.default_rng(7)
    inside = []
    for repeat in range(150):
        found = compare(*crossed(random, seeds, 40, gain=0.03), seed=repeat)
        inside.append(found.low <= 0.03 <= found.high)
    assert floor <= np.mean(inside) <= 1.0


def test_interval_sees_both_factors():
    """With only one factor varying the width follows that factor: sd / sqrt(n) times 2 x 1.96."""
    random = np.random.default_rng(3)
    over_seeds = compare(*crossed(random, 30, 30, seed_sd=0.05, trajectory_sd=0, rest_sd=0))
    over_trajectories = compare(*crossed(random, 30, 30, seed_sd=0, trajectory_sd=0.05, rest_sd=0))
    expected = 2 * 1.96 * 0.05 / np.sqrt(30)
    assert over_seeds.high - over_seeds.low == pytest.approx(expected, rel=0.4)
    assert over_trajectories.high - over_trajectories.low == pytest.approx(expected, rel=0.4)


def test_variance_over_few_seeds_is_not_understated():
    """At three seeds the resampled means vary as much as the mean itself does, on average over data sets."""
    random = np.random.default_rng(5)
    widths, means = [], []
    for repeat in range(400):
        gain = random.normal(0, 1, (3, 1)) + np.zeros((3, 8))
        found = compare(-gain, np.zeros((3, 8)), seed=repeat)
        # two draws out of three: the extreme means are the extreme seeds, each with probability 1/9
        widths.append(found.high - found.low == pytest.approx(np.ptp(gain), abs=1e-9))
        means.append(found.improvement)
    assert all(widths)
    assert np.std(means) == pytest.approx(1 / np.sqrt(3), rel=0.15)


def test_no_difference_is_not_confirmed():
    errors = np.random.default_rng(0).uniform(0.1, 0.2, (5, 30))
    found = compare(errors, errors)
    assert (found.low, found.improvement, found.high) == (0, 0, 0)
    assert not found.confirmed
    assert found.verdict == "the interval includes zero"


def test_false_confirmations_are_rare_with_five_seeds():
    random = np.random.default_rng(11)
    confirmed = [compare(*crossed(random, 8, 40), seed=repeat).confirmed for repeat in range(200)]
    assert np.mean(confirmed) < 0.10


def test_few_seeds_must_agree():
    """Half of the trajectories' weight hides a seed that is worse: five seeds may decide by interval, four not."""
    agreeing = Comparison(improvement=0.1, low=0.02, high=0.2, per_seed=(0.1, 0.1, 0.1, 0.1), trajectories=9)
    assert agreeing.confirmed
    split = Comparison(improvement=0.1, low=0.02, high=0.2, per_seed=(0.2, 0.2, 0.2, -0.01), trajectories=9)
    assert not split.confirmed
    assert "disagree in sign" in split.verdict
    many = Comparison(improvement=0.1, low=0.02, high=0.2, per_seed=(0.2,) * 7 + (-0.01,), trajectories=9)
    assert many.confirmed


def test_worse_is_never_confirmed():
    random = np.random.default_rng(1)
    found = compare(*crossed(random, 6, 40, gain=-0.2))
    assert found.high < 0
    assert not found.confirmed
    assert found.verdict == "it is worse than the reference"


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-1, 1), scale=st.floats(0.1, 10), seeds=st.integers(2, 6), seed=st.integers(0, 99))
def test_shift_and_scale_equivariance(shift, scale, seeds, seed):
    challenger, reference = crossed(np.random.default_rng(seed), seeds, 12)
    plain = compare(challenger, reference, seed=seed)
    moved = compare(scale * challenger - shift, scale * reference, seed=seed)
    for field in ("improvement", "low", "high"):
        assert getattr(moved, field) == pytest.approx(scale * getattr(plain, field) + shift, abs=1e-9)
    same = compare(challenger + 3, reference + 3, seed=seed)
    assert same.low == pytest.approx(plain.low, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_interval_brackets_a_swap(seed):
    """Swapping the sides mirrors the interval."""
    challenger, reference = crossed(np.random.default_rng(seed), 4, 15)
    there, back = compare(challenger, reference, seed=1), compare(reference, challenger, seed=1)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


def test_resampling_repeats_itself():
    sides = crossed(np.random.default_rng(2), 4, 15)
    assert compare(*sides, seed=4) == compare(*sides, seed=4)


def test_deviation_over_seeds():
    assert seed_deviation([0.1, 0.2, 0.3]) == pytest.approx(0.1)
    assert seed_deviation([0.1]) is None

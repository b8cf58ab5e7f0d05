"""Laws of the paired comparison; those of its interval are in tests/tune/test_promote_statistics.py."""

import numpy as np
import pytest

from ups.evaluation import paired as module
from ups.evaluation.paired import Paired, paired, paired_of_one_run


@pytest.fixture(autouse=True, scope="module")
def fewer_resamples():
    """The laws hold for any number of resamples that is not tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESAMPLES", 1_000)
        yield


def errors(seeds=4, trajectories=20, seed=0):
    random = np.random.default_rng(seed)
    return np.exp(random.normal(-2, 0.5, (1, trajectories)) + random.normal(0, 0.1, (seeds, trajectories)))


def test_a_constant_factor_is_found_exactly():
    second = errors()
    found = paired(0.8 * second, second)
    assert found.ratio == pytest.approx(0.8)
    assert (found.typical_ratio, found.typical_low, found.typical_high) == pytest.approx((0.8, 0.8, 0.8))
    assert found.difference == pytest.approx(-0.2 * second.mean())
    assert found.low < found.difference < found.high < 0
    assert found.per_seed == pytest.approx(-0.2 * second.mean(axis=1))
    assert found.decided
    assert found.seeds_agree
    assert found.reason == "the interval excludes zero"


def test_swapping_the_sides_mirrors_everything():
    first, second = errors(seed=1), errors(seed=2)
    there, back = paired(first, second), paired(second, first)
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert (back.typical_low, back.typical_high) == pytest.approx((1 / there.typical_high, 1 / there.typical_low))
    assert back.decided == there.decided


def test_the_typical_ratio_is_not_moved_by_the_unit_of_a_trajectory():
    """The ratio of means follows the trajectory with the largest errors, the typical ratio counts each the same."""
    second = errors()
    first = second * np.where(np.arange(20) < 10, 0.5, 1.0)
    scale = np.where(np.arange(20) < 10, 100.0, 1.0)
    plain, scaled = paired(first, second), paired(first * scale, second * scale)
    assert plain.typical_ratio == pytest.approx(np.sqrt(0.5))
    assert scaled.typical_ratio == pytest.approx(plain.typical_ratio)
    assert scaled.typical_low == pytest.approx(plain.typical_low)
    assert scaled.ratio < 0.6 < plain.ratio


def test_errors_of_zero_have_no_typical_ratio():
    first, second = errors(), errors(seed=1)
    first[0, 0] = 0
    found = paired(first, second)
    assert found.typical_ratio is found.typical_low is found.typical_high is None
    assert found.ratio is not None
    assert paired(first, np.zeros_like(first)).ratio is None


def test_equal_errors_are_undecided():
    found = paired(errors(), errors())
    assert (found.difference, found.low, found.high, found.ratio) == (0, 0, 0, 1)
    assert not found.decided
    assert found.reason == "the interval includes zero"


@pytest.mark.parametrize(("seeds", "decided"), [(4, False), (5, True)])
def test_few_seeds_must_agree_many_need_not(seeds, decided):
    found = Paired(-0.1, -0.2, -0.02, (*(-0.2,) * (seeds - 1), 0.01), 9, 0.9, 0.9, 0.8, 0.95)
    assert not found.seeds_agree
    assert found.decided is decided
    assert ("disagree in sign" in found.reason) is not decided


@pytest.mark.parametrize("shape", [(1, 5), (3, 1)])
def test_one_seed_or_trajectory_is_refused(shape):
    with pytest.raises(AssertionError, match="says nothing about the spread"):
        paired(np.ones(shape), np.ones(shape))


def test_one_run_has_an_interval_over_its_trajectories_alone():
    second = errors(seeds=1)[0]
    found = paired_of_one_run(0.8 * second, second)
    assert found.ratio == pytest.approx(0.8)
    assert found.low < found.difference < found.high < 0
    assert found.decided
    assert found.per_seed == pytest.approx((found.difference,))
    # equal seeds add no spread: the interval over both is that over trajectories, up to resampling
    twice = paired(np.stack([0.8 * second] * 2), np.stack([second] * 2))
    assert (found.low, found.high) == pytest.approx((twice.low, twice.high), rel=0.1)
    assert not paired_of_one_run(second, second[::-1]).decided


def test_one_trajectory_of_one_run_is_refused():
    with pytest.raises(AssertionError, match="one trajectory says nothing about the spread"):
        paired_of_one_run(np.ones(1), np.ones(1))

"""Laws of a split: disjoint, inside the file, determined by its arguments."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.core.errors import DataError
from ups.data.splits import NAMES, Split, split_trajectories

counts = st.tuples(*[st.integers(1, 30)] * 3)


@given(counts, st.integers(0, 40), st.integers(0, 2**31 - 1))
def test_parts_are_disjoint_and_as_large_as_asked(wanted, spare, seed):
    available = sum(wanted) + spare
    split = split_trajectories(available, **dict(zip(NAMES, wanted, strict=True)), seed=seed)
    parts = [getattr(split, name) for name in NAMES]
    assert tuple(map(len, parts)) == wanted
    together = sum(parts, ())
    assert len(set(together)) == sum(wanted)
    assert set(together) <= set(range(available))
    if not spare:
        assert set(together) == set(range(available))


@given(counts, st.integers(0, 100))
def test_the_same_arguments_give_the_same_split(wanted, seed):
    sizes = dict(zip(NAMES, wanted, strict=True))
    assert split_trajectories(100, **sizes, seed=seed) == split_trajectories(100, **sizes, seed=seed)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 100))
def test_more_training_leaves_test_and_validation_alone(few, more, seed):
    one = split_trajectories(100, train=few, validation=8, test=9, seed=seed)
    other = split_trajectories(100, train=few + more, validation=8, test=9, seed=seed)
    assert (one.validation, one.test) == (other.validation, other.test)
    assert set(one.train) < set(other.train)


def test_the_seed_matters():
    splits = {split_trajectories(100, train=50, validation=10, test=10, seed=seed).test for seed in range(10)}
    assert len(splits) == 10


def test_the_numbers_are_pinned():
    # a change of this draw would move test trajectories of old runs into training
    split = split_trajectories(10, train=4, validation=2, test=2, seed=0)
    assert (split.train, split.validation, split.test) == ((2, 3, 5, 9), (6, 7), (1, 4))


@given(counts, st.integers(0, 100))
def test_a_manifest_comes_back(wanted, seed):
    split = split_trajectories(100, **dict(zip(NAMES, wanted, strict=True)), seed=seed)
    assert Split.from_json(json.loads(json.dumps({**split.to_json(), "files": ["a.h5"]}))) == split


def test_overlap_is_an_error():
    with pytest.raises(DataError, match="trajectory 2 is in train and again in test"):
        Split(0, (1, 2), (3,), (4, 2))
    with pytest.raises(DataError, match="trajectory 1 is in train and again in train"):
        Split.from_json({"seed": 0, "train": [1, 1], "validation": [2], "test": [3]})
    with pytest.raises(DataError, match="'test' is missing"):
        Split.from_json({"seed": 0, "train": [1], "validation": [2]})
    with pytest.raises(DataError, match="trajectory -1 of test does not exist"):
        Split(0, (1,), (3,), (-1,))


def test_too_few_trajectories_says_how_many():
    line = "6 train \\+ 2 validation \\+ 3 test = 11 trajectories wanted, 10 available"
    with pytest.raises(DataError, match=line):
        split_trajectories(10, train=6, validation=2, test=3, seed=0)

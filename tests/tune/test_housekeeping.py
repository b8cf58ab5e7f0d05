"""The disk that a search takes: bounded, and never at the cost of what is needed."""

from __future__ import annotations

import os
import warnings
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tune.housekeeping import COLLECT_SECONDS, TRIM_SECONDS, Housekeeper
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from tune.trial import run_folder
from ups.config import RunConfig
from ups.core.artifacts import ArtifactStore
from ups.core.store import MANIFEST
from ups.core.types import Status
from ups.data.task import load_task
from ups.training.keys import stage_keys

LR = "stages.operator.optimizer.lr"
EACH = 1000
"""bytes of the checkpoints of a trial, and of an artifact"""


@pytest.fixture(scope="module")
def base(tiny):
    return RunConfig.parse(tiny)


@pytest.fixture(scope="module")
def tidy(base, tmp_path_factory):
    """Make a study of given scores (None is PRUNED) and have it tidied; gives what is left."""
    data = load_task(base.task).fingerprint

    def tidy(scores, limit, running=(), top=2, after=COLLECT_SECONDS):
        folder = tmp_path_factory.mktemp("study")
        config = SearchConfig.parse(
            {"base": "b.yaml", "space": {LR: {"float": [1e-4, 1.0], "log": True}}, "confirm": {"top": top}}
        )
        study, store, clock = StudyFolder(folder, config, base, ()), ArtifactStore(folder / "store"), [0.0]
        # the first trial is the base itself
        values = [{LR: 0.01 * number} if number else {} for number in range(len(scores))]
        keys = [stage_keys(base.override(value), data)["operator"] for value in values]
        records = {}
        for number, score in enumerate(scores):
            state = Status.PRUNED if score is None else Status.COMPLETE
            records[number] = TrialRecord(number, state, score, "", values[number], 1.0, (), {}, 5)
            checkpoints = run_folder(folder, number) / "checkpoints" / "operator"
            checkpoints.mkdir(parents=True)
            (checkpoints / "last.safetensors").write_bytes(b"x" * EACH)
            (checkpoints.parents[1] / "result.json").write_text("{}")
            made = store.publish(keys[number], lambda temporary: (temporary / "a").write_bytes(b"x" * EACH) and None)
            # the clock of a file system may not tell it from the next one
            os.utime(made / MANIFEST, (number, number))
        keeper = Housekeeper(study, store, limit, lambda: clock[0])
        keeper.tidy_if_due(records, [])
        assert len(store.ls()) == len(scores), "not due yet"
        clock[0] += after
        keeper.tidy_if_due(records, [SimpleNamespace(keys={"operator": keys[number]}) for number in running])
        keeper.close()
        runs = {n for n in records if (run_folder(folder, n) / "checkpoints").exists()}
        assert all((run_folder(folder, n) / "result.json").exists() for n in records)
        return runs, {n for n in records if store.has(keys[n])}

    return tidy


@settings(max_examples=15, deadline=None)
@given(
    scores=st.lists(st.none() | st.floats(0.1, 1.0), min_size=1, max_size=8),
    limit=st.integers(0, 10 * EACH),
    running=st.sets(st.integers(0, 7)),
)
@example(scores=[1.0] * 4, limit=0, running=set())
def test_what_is_needed_stays_and_the_rest_fits(tidy, scores, limit, running):
    running &= set(range(len(scores)))
    runs, artifacts = tidy(scores, limit, running)
    complete = [number for number in range(len(scores)) if scores[number] is not None]
    needed = {0, *sorted(complete, key=lambda number: (scores[number], number))[:2]}
    assert needed <= runs
    assert needed | running <= artifacts
    assert len(runs) * EACH <= max(limit, len(needed) * EACH)
    assert len(artifacts) * EACH <= max(limit, len(needed | running) * EACH)


def test_the_oldest_go_first_and_no_more_than_has_to(tidy):
    runs, artifacts = tidy([0.9, 0.8, None, 0.1, 0.2, None], 4 * EACH)
    assert runs == {0, 3, 4, 5}
    assert artifacts == {0, 3, 4, 5}


def test_checkpoints_go_more_often_than_the_store_is_collected(tidy):
    runs, artifacts = tidy([0.9, 0.8, None, 0.1, 0.2, None], 4 * EACH, after=TRIM_SECONDS)
    assert runs == {0, 3, 4, 5}
    assert artifacts == {*range(6)}


def test_nothing_goes_while_there_is_room(tidy):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert tidy([0.9, None, 0.1], 10**9) == ({0, 1, 2}, {0, 1, 2})
    # others are of what earlier tests left, whenever that is collected
    assert [str(each.message) for each in said if each.category is UserWarning] == []


def test_too_little_for_what_is_needed_is_said(tidy):
    with pytest.warns(UserWarning, match=r"are needed, more than 10 B; give the search more with resources\.disk"):
        tidy([0.9, 0.8], 10)

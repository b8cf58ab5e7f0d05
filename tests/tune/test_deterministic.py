"""Deterministic mode: what is proposed and decided is a function of the seed and of what trials score, whoever ends
first, and whenever the search is killed."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_up_search import CANDIDATES, EPOCHS, LR, RATE, STAGED, THREE, MadeUpSearch

from ups.core.errors import ConfigError
from ups.core.types import Status

SIZE, TRIALS = 4, 18
SPACE = THREE | {
    LR: {"choice": [1e-4, 1e-3, 2e-3, 5e-3, 2e-2, 0.1, 5.0]},
    "latent.tokens": {"choice": [16, 64, 128]},
}
"""few operators, so that trials of a batch share some"""
FAST = (Phase.explicit, Phase.reuse, Phase.generate)
"""a failing search is as good as the smallest one, which takes minutes to find"""
EXAMPLES = {"stage_tree": 8, "gp": 1}
SAMPLERS = ("stage_tree", "tpe", "random", "cmaes", "gp")


@pytest.fixture(autouse=True, scope="module")
def _no_fsync():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def score(values, stage):
    if values[LR] > 0.05:
        return Status.EXPLODED
    if stage == "diff_residual" and values[RATE] > 0.03:
        return Status.STALLED
    error = 0.2 * math.exp(0.3 * abs(math.log(values[LR] / 3e-3)))
    if stage != "operator" and values[EPOCHS]:
        error *= math.exp(0.2 * abs(math.log(values[RATE] / 1e-3)) - 0.1 * values[EPOCHS])
    return error * (1 - 0.01 * values[CANDIDATES]) if stage == "inference" else error


def refuse(config):
    if config.latent.tokens == 16 and config.stages.diff_residual.epochs == 3:
        raise ConfigError("16 tokens and 3 epochs do not go together")
    return 5


def decided(records):
    """All that a search decides: proposals, verdicts, scores. Whose verdict is shared hangs on who trained."""
    return [(record.number, record.state, record.score, record.params) for record in records]


class Place:
    """Folders for searches of one plan, each used once."""

    def __init__(self, folder, make_plan):
        self.folder, self.make_plan, self.count = folder, make_plan, 0

    def fresh(self):
        self.count += 1
        return self.folder / str(self.count)

    def search(self, folder=None, resume=False, pick=None, workers=2, **strategy):
        trials = TRIALS if strategy.get("sampler") != "gp" else TRIALS // 2  # a fit takes half a second
        settings = {"trials": trials, "batch": SIZE, "startup_trials": 4, "milestones": STAGED, **strategy}
        plan = self.make_plan(space=SPACE, **settings)
        folder = folder or self.fresh()
        return MadeUpSearch(plan, folder, score, resume=resume, pick=pick, workers=workers, check=refuse)


@pytest.fixture
def place(tmp_path, make_plan):
    return Place(tmp_path, make_plan)


@pytest.fixture(scope="module")
def expected():
    """Sampler -> what the search of the first order decided."""
    return {}


def reference(place, expected, sampler):
    if sampler not in expected:
        with place.search(sampler=sampler) as search:
            expected[sampler] = decided(search.run()), (search.study.folder / "journal.log").read_text()
    return expected[sampler]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_ends_first_decides_nothing(place, expected, sampler):
    trials, _ = reference(place, expected, sampler)
    if sampler == "stage_tree":
        assert len({state for _, state, _, _ in trials}) > 3

    @settings(max_examples=EXAMPLES.get(sampler, 3), deadline=None, phases=FAST)
    @given(picks=st.randoms(use_true_random=False), workers=st.integers(1, SIZE))
    def holds(picks, workers):
        with place.search(pick=picks.randrange, workers=workers, sampler=sampler) as search:
            assert decided(search.run()) == trials

    holds()


def test_without_batches_the_order_does_decide(place):
    found = []
    for workers in (1, 2, 4):
        with place.search(workers=workers, batch=None) as search:
            found.append(decided(search.run()))
    assert found[0] != found[1] or found[1] != found[2]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_was_killed_anywhere_ends_as_if_it_had_not_been(place, expected, sampler):
    trials, journal = reference(place, expected, sampler)
    lines = journal.splitlines(keepends=True)

    @settings(max_examples=2 * EXAMPLES.get(sampler, 3), deadline=None, phases=FAST)
    @given(kept=st.integers(1, len(lines)), half=st.booleans())
    def holds(kept, half):
        folder = place.fresh()
        with place.search(folder, sampler=sampler):
            pass
        text = "".join(lines[:kept])
        (folder / "journal.log").write_text(text[: -len(lines[kept - 1]) // 2] if half else text)
        with place.search(folder, resume=True, sampler=sampler) as search:
            assert decided(search.run()) == trials
        shutil.rmtree(folder)

    holds()


def test_a_batch_is_proposed_before_any_of_it_is_learned(place):
    with place.search(workers=SIZE) as search:
        driver, study = search.driver, search.study.optuna
        numbers = [driver.next().number for _ in range(SIZE) if len(driver.running) + len(driver.parked) < SIZE]
        driver.progress(numbers[0], {"stage": "operator", "share": 0.25, "seconds": 1.0, "score": 0.5})
        driver.end(numbers[0], driver.lost(numbers[0], "died"))
        assert driver.next() is None
        assert not driver.is_over
        assert all(not trial.state.is_finished() for trial in study.get_trials())
        assert driver.rungs.arrivals(0) == ()
        for number in numbers[1:]:
            driver.end(number, driver.lost(number, "died"))
        if not driver.running and not driver.parked:
            assert all(trial.state.is_finished() for trial in study.get_trials())
            assert driver.rungs.arrivals(0) == (0.5,)


@pytest.mark.parametrize("trials", [SIZE, SIZE + 1, 2 * SIZE - 1])
def test_the_last_batch_need_not_be_full(place, trials):
    with place.search(trials=trials) as search:
        records = search.run()
        assert search.driver.is_over
        assert search.driver.stop_reason is None
    assert Status.RUNNING not in Counter(record.state for record in records)
    assert len(records) == trials


def test_infeasible_ones_are_members_of_their_batch(place):
    with place.search(sampler="random", trials=40, seed=3) as search:
        records = search.run()
    states = Counter(record.state for record in records)
    assert states[Status.INFEASIBLE] > 0
    assert states[Status.RUNNING] == 0
    assert len(records) == 40

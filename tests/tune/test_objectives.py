"""Several objectives, constraints and the noise floor: laws of pure functions over made-up records."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.checks import check_space
from tune.objectives import (
    NOISE,
    NoiseFloor,
    best_of,
    broken,
    claim,
    dominates,
    is_eligible,
    is_feasible,
    noise_floor,
    pareto_front,
    reference_of,
)
from tune.space import SearchConfig
from tune.study import TrialRecord
from tune.trial import Outcome, metrics_of
from ups.config import RunConfig
from ups.core.errors import ConfigError
from ups.core.types import RunResult, Status

METRICS = ("rollout_nrmse", "inference_ms", "parameters", "peak_memory_gib")
SPACE = {"latent.tokens": {"choice": [16, 32]}}


def search(objectives: Any = ("rollout_nrmse",), **constraints: float) -> SearchConfig:
    return SearchConfig.parse(
        {
            "base": "base.yaml",
            "space": SPACE,
            "objective": [{"metric": name} for name in objectives],
            "constraints": {name: {"max": limit} for name, limit in constraints.items()},
            "strategy": {"scheduler": "none"},
        }
    )


def record(
    number: int, score: float | None, state: Status = Status.COMPLETE, origin: str = "sampled", **metrics: float
) -> TrialRecord:
    measured = metrics if score is None else {"rollout_nrmse": score, **metrics}
    return TrialRecord(number, state, score, "", {}, 1.0, (), {}, 7, origin, measured)


values = st.sampled_from([1.0, 2.0, 3.0, 4.0])
tries = st.builds(
    lambda score, ms, weights, state, origin: (score, ms, weights, state, origin),
    values,
    values,
    values,
    st.sampled_from([Status.COMPLETE] * 4 + [Status.PRUNED, Status.RUNNING]),
    st.sampled_from(["sampled"] * 4 + [NOISE]),
)
studies = st.lists(tries, max_size=12).map(
    lambda drawn: [
        record(number, score, state, origin, inference_ms=ms, parameters=weights)
        for number, (score, ms, weights, state, origin) in enumerate(drawn)
    ]
)
configs = st.sampled_from(
    [
        search(),
        search(("rollout_nrmse", "parameters")),
        search(("rollout_nrmse", "inference_ms", "parameters")),
        search(("rollout_nrmse", "inference_ms"), parameters=2.5),
        search(inference_ms=1.5, rollout_nrmse=3.0),
    ]
)


def point(trial: TrialRecord, config: SearchConfig) -> list[float]:
    return [trial.metrics[objective.metric] for objective in config.objectives]


@given(records=studies, config=configs)
def test_nothing_on_the_front_is_dominated_and_everything_eligible_outside_is(records, config):
    front = pareto_front(records, config)
    assert all(is_eligible(trial, config) for trial in front)
    eligible = [trial for trial in records if is_eligible(trial, config)]
    for trial in eligible:
        beaten = any(dominates(point(other, config), point(trial, config)) for other in front)
        assert beaten == (trial not in front)


@given(records=studies, config=configs, data=st.data())
def test_the_order_of_the_trials_does_not_matter(records, config, data):
    shuffled = data.draw(st.permutations(records))
    assert pareto_front(shuffled, config) == pareto_front(records, config)
    assert best_of(shuffled, config) == best_of(records, config)
    here, there = noise_floor(shuffled), noise_floor(records)
    assert (here and (here.n, here.lost)) == (there and (there.n, there.lost))
    assert here is None or (here.mean, here.sd) == pytest.approx((there.mean, there.sd))


@given(records=studies, config=configs)
def test_the_best_is_eligible_has_the_smallest_error_and_lies_on_the_front_in_that(records, config):
    best, front = best_of(records, config), pareto_front(records, config)
    assert (best is None) == (front == ())
    if best is not None:
        assert best.state is Status.COMPLETE
        assert best.origin != NOISE
        assert is_feasible(best, config)
        assert front[0].score == best.score == min(t.score for t in records if is_eligible(t, config))


@given(values=st.dictionaries(st.sampled_from(METRICS), st.floats(1e-6, 1e9)), limit=st.floats(1e-6, 1e9))
def test_a_violation_is_positive_just_where_a_limit_is_passed(values, limit):
    config = search(inference_ms=limit, parameters=limit)
    found = config.violations(values)
    assert set(found) == {"inference_ms", "parameters"}, "the same keys whatever was measured: a sampler may demand it"
    assert all(math.isfinite(excess) for excess in found.values())
    for name, excess in found.items():
        assert (excess > 0) == (name in values and values[name] > limit)
    named = {text.split()[0] for text in broken(values, config)}
    assert named == {name for name in found if name not in values or values[name] > limit}


def test_what_was_not_measured_is_not_held():
    config = search(inference_ms=5.0)
    assert broken({}, config) == ("inference_ms was not measured",)
    assert broken({"inference_ms": 7.0}, config) == ("inference_ms 7, at most 5",)
    assert broken({"inference_ms": 5.0}, config) == ()
    assert best_of([record(0, 0.1)], config) is None


def test_an_unconstrained_search_asks_for_no_metrics():
    bare = dataclasses.replace(record(3, 0.1), metrics={})
    assert best_of([bare], search()) == bare
    assert pareto_front([bare], search()) == (bare,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": [{"metric": "parameters"}]}, "the first objective must be rollout_nrmse"),
        ({"objective": {"metric": "inference_ms"}}, "the first objective must be rollout_nrmse"),
        ({"objective": []}, "the first objective must be rollout_nrmse"),
        ({"objective": [{"metric": "rollout_nrmse"}] * 2}, "each metric at most once"),
        ({"objective": [{"metric": "accuracy"}]}, r"objective\.0\.metric"),
        ({"constraints": {"inference_ms": {"max": 0}}}, "greater than 0"),
        ({"constraints": {"inference_ms": {"min": 1}}}, "unknown key|required"),
        ({"constraints": {"latency": {"max": 1}}}, "constraints.latency"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig.parse({"base": "base.yaml", "space": SPACE, **change})


def test_one_objective_may_stand_without_a_list():
    one = SearchConfig.parse({"base": "b", "space": SPACE, "objective": {"metric": "rollout_nrmse"}})
    assert one == SearchConfig.parse({"base": "b", "space": SPACE}) == SearchConfig.parse(one.model_dump(mode="json"))
    assert [objective.metric for objective in one.objectives] == ["rollout_nrmse"]


@pytest.mark.parametrize(
    ("objectives", "scheduler", "refused"),
    [
        (("rollout_nrmse", "inference_ms"), "milestone_asha", True),
        (("rollout_nrmse", "parameters", "peak_memory_gib"), "milestone_asha", True),
        (("rollout_nrmse", "parameters"), "milestone_asha", False),
        (("rollout_nrmse", "inference_ms"), "none", False),
    ],
)
def test_what_is_measured_at_the_end_is_not_judged_at_milestones(base: RunConfig, objectives, scheduler, refused):
    config = search(objectives).override({"strategy.scheduler": scheduler})
    if refused:
        with pytest.raises(ConfigError, match="measured at the end of a run; use scheduler: none"):
            check_space(config, base)
    else:
        check_space(config, base)


def test_metrics_travel_with_the_outcome(tmp_path):
    result = RunResult(Status.COMPLETE, "", 0.2, {}, 1.0, 7, tmp_path, peak_memory_gib=0.5, inference_ms=3.0)
    expected = {"rollout_nrmse": 0.2, "inference_ms": 3.0, "parameters": 7, "peak_memory_gib": 0.5}
    assert metrics_of(result) == expected
    outcome = Outcome.of(result)
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert outcome.metrics == expected
    lost = RunResult(Status.NOT_FINITE, "", math.inf, {}, 1.0, 7, tmp_path)
    assert Outcome.of(lost).metrics == {"parameters": 7}


def test_the_noise_floor_is_of_the_base_alone():
    base = record(0, 0.30, origin="base")
    repeats = [record(1, 0.32, origin=NOISE), record(2, 0.28, origin=NOISE), record(5, 0.9, Status.PRUNED, NOISE)]
    running = record(6, None, Status.RUNNING, NOISE)
    found = noise_floor([base, *repeats, running, record(3, 0.01)])
    assert (found.mean, found.sd, found.n, found.lost) == (pytest.approx(0.3), pytest.approx(0.02), 3, 1)
    # t(0.975, 2) = 4.3027
    assert found.threshold == pytest.approx(0.3 - 4.3027 * 0.02 * math.sqrt(4 / 3), rel=1e-4)
    assert noise_floor([base, record(3, 0.01)]) is None
    assert noise_floor([]) is None


def test_one_more_seed_of_the_base_is_rarely_called_an_improvement():
    """The lower end of a 95 % prediction interval is passed by one new draw in 2.5 % of all cases."""
    random = np.random.default_rng(0)
    for n in (2, 3, 6):
        draws = random.normal(0.3, 0.02, (4000, n + 1))
        floors = [NoiseFloor(row[:n].mean(), row[:n].std(ddof=1), n) for row in draws]
        passed = np.mean([floor.is_improvement(row[n]) for floor, row in zip(floors, draws, strict=True)])
        assert passed == pytest.approx(0.025, abs=0.01)


@given(mean=st.floats(0.1, 1), sd=st.floats(0, 0.1), n=st.integers(2, 9), score=st.floats(0, 1))
def test_claims_say_what_the_interval_says(mean, sd, n, score):
    floor = NoiseFloor(mean, sd, n)
    assert floor.threshold <= mean
    assert floor.claim(score).startswith("better than noise" if score < floor.threshold else "within the noise floor")


def test_a_claim_is_about_another_config_than_the_base():
    base = [record(0, 0.3, origin="base"), record(1, 0.302, origin=NOISE), record(2, 0.298, origin=NOISE)]
    assert claim(base, search()) is None, "the base itself is the best"
    assert claim([record(0, 0.3), record(3, 0.1)], search()) is None, "nothing is known of the noise"
    assert claim([*base, record(3, 0.1)], search()).startswith("better than noise: 0.1 is below")
    assert claim([*base, record(3, 0.299)], search()).startswith("within the noise floor: 0.299 is not below")
    lost = record(4, None, Status.EXPLODED, NOISE)
    assert "did not run to its end on 1" in claim([*base, lost, record(3, 0.299)], search())


def test_the_reference_is_the_best_golden_that_ran_to_its_end_or_else_the_base():
    base, first, second = (
        record(0, 0.5, origin="base"),
        record(1, 0.4, origin="a.yaml"),
        record(2, 0.3, origin="b.yaml"),
    )
    other = record(3, 0.1)

    def reference(records, *goldens):
        found = reference_of(records, goldens)
        return None if found is None else (found.record.number, found.name)

    assert reference([other], "a.yaml") is None
    assert reference([base, first, other]) == (0, "base")
    assert reference([base, first, second, other], "a.yaml", "b.yaml") == (2, "golden")
    assert reference([base, first, other], "base", "c.yaml") == (0, "golden")
    stopped = record(1, 0.1, Status.STALLED, "a.yaml")
    assert reference([base, stopped], "a.yaml") == (0, "base")

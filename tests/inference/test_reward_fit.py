"""What training trajectories say about a reward: the same each time, and only what ranks candidates is kept.

S trajectories, T frames, H states, K candidates, X cells, C channels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes_search import PARAMETERS, comoving, spec_of, start_of, surrogate_of, term
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

from ups.core.errors import ConfigError, UserError
from ups.core.integrators import INTEGRATORS
from ups.core.measures import spearman
from ups.core.physics import EQUATIONS
from ups.data.task import Trajectories
from ups.inference.reward_fit import NoReward, fit_search, term_values
from ups.inference.rewards import TERMS, FittedReward, Move, TermName, applicable
from ups.inference.search import Pool, Search
from ups.inference.search_config import SearchConfig


def config_of(reward: dict[str, Any] | None = None, **changes: Any) -> SearchConfig:
    values = {"noise_std": 0.1, **changes}
    if reward is not None:
        values["reward"] = {"kind": "adaptive", **reward}
    return SearchConfig.parse(values)


def solved(equation: str, samples: int = 6, frames: int = 7) -> Trajectories:
    """Fields that the reward's own integrator moves, or for other equations long waves that grow a little."""
    spec = spec_of(equation)
    start, parameters = start_of(equation, samples)
    if equation not in INTEGRATORS:
        start = start.square() + 0.1
    fields = [start]
    while len(fields) < frames:
        if equation in INTEGRATORS:
            moved = INTEGRATORS[equation](fields[-1][..., 0], parameters[:, 0], spec.dt, spec.length)
            fields.append(moved[..., None])
        else:
            fields.append(fields[-1] * 1.02)
    return Trajectories(
        torch.stack(fields, 1).numpy(), parameters.numpy().copy(), np.zeros(samples, dtype=np.int64), spec.dt
    )


def reward_of(search: Search) -> FittedReward:
    assert isinstance(search.reward, FittedReward)
    return search.reward


@pytest.mark.parametrize("source", ["none", "student"])
def test_equal_calls_give_equal_rewards(source: str) -> None:
    surrogate, training = surrogate_of("burgers"), solved("burgers")
    config = config_of({"min_correlation": 0.0}, source=source)
    torch.manual_seed(1)
    once = fit_search(surrogate, config, training)
    torch.manual_seed(2)
    again = fit_search(surrogate, config, training)
    assert reward_of(once) == reward_of(again)
    assert once.config == config


def test_the_fit_leaves_the_surrogate_and_the_effort_alone() -> None:
    surrogate, training = surrogate_of("burgers"), solved("burgers")
    weights = {name: value.clone() for name, value in surrogate.state_dict().items()}
    search = fit_search(surrogate, config_of({"min_correlation": 0.0}), training)
    assert surrogate.search is None
    assert all(torch.equal(value, weights[name]) for name, value in surrogate.state_dict().items())
    assert search.effort.evaluations == search.effort.operator == 0


@pytest.mark.parametrize("equation", ["burgers", "advection", "reaction_diffusion", "navier_stokes"])
def test_every_term_that_applies_is_fitted(equation: str) -> None:
    surrogate = surrogate_of(equation)
    terms = reward_of(fit_search(surrogate, config_of({"min_correlation": 0.0}), solved(equation))).terms
    assert [each.name for each in terms] == applicable(surrogate.spec)
    for each in terms:
        assert each.used == (not each.reason)


def test_what_does_not_differ_between_candidates_is_not_used() -> None:
    """The frame conserves Burgers' mean exactly, so no candidate changes it."""
    search = fit_search(surrogate_of("burgers"), config_of({"min_correlation": 0.0}), solved("burgers"))
    conservation = {each.name: each for each in reward_of(search).terms}["conservation"]
    assert not conservation.used
    assert conservation.reason == "does not differ between candidates"
    free = surrogate_of("burgers", model={"symmetry": "none"})
    search = fit_search(free, config_of({"min_correlation": 0.0}), solved("burgers"))
    assert {each.name: each for each in reward_of(search).terms}["conservation"].spread > 1e-4


@pytest.mark.parametrize("least", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("equation", ["burgers", "advection"])
def test_adaptive_drops_exactly_what_ranks_too_little(equation: str, least: float) -> None:
    surrogate, training = surrogate_of(equation), solved(equation)
    every = reward_of(fit_search(surrogate, config_of({"min_correlation": 0.0}), training)).terms
    differ = [each for each in every if each.reason != "does not differ between candidates"]
    kept = {each.name for each in differ if each.correlation >= least}
    try:
        terms = reward_of(fit_search(surrogate, config_of({"min_correlation": least}), training)).terms
    except NoReward:
        assert kept == set()
        return
    assert {each.name for each in terms if each.used} == kept
    for each in terms:
        if each.name in {one.name for one in differ} - kept:
            assert each.reason == f"rank correlation with the true error {each.correlation:.2f}"


def test_a_reward_that_ranks_nothing_is_refused_with_its_correlations() -> None:
    with pytest.raises(NoReward, match=r"^ttc\.reward: nothing tells candidates apart") as refused:
        fit_search(surrogate_of("burgers"), config_of({"min_correlation": 1.0}), solved("burgers"))
    message = str(refused.value)
    for name in ("dissipation", "total_variation", "residual"):
        assert f"{name}: rank correlation with the true error 0." in message
    assert "conservation: does not differ between candidates" in message
    assert "\n" not in message
    assert isinstance(refused.value, UserError)


def test_a_composite_keeps_what_was_chosen_whatever_it_ranks() -> None:
    weights = {"dissipation": 0.5, "residual": 3.0}
    config = SearchConfig.parse({"noise_std": 0.1, "reward": {"kind": "composite", **weights}})
    terms = reward_of(fit_search(surrogate_of("burgers"), config, solved("burgers"))).terms
    assert {each.name: each.weight for each in terms if each.used} == weights


@pytest.mark.parametrize(
    ("equation", "reward", "message"),
    [
        ("diffusion_reaction", {"kind": "adaptive"}, "has no usable term"),
        ("reaction_diffusion", {"kind": "composite", "residual": 1.0}, "not a law of reaction_diffusion"),
        ("burgers", {"kind": "composite"}, "every weight is 0"),
    ],
)
def test_an_unusable_reward_is_refused(equation: str, reward: dict[str, Any], message: str) -> None:
    config = SearchConfig.parse({"reward": reward})
    with pytest.raises(ConfigError, match=message):
        fit_search(surrogate_of(equation), config, solved(equation))


@pytest.mark.parametrize(
    ("equation", "changes", "message"),
    [("burgers", {"source": "student"}, "student was not trained"), ("darcy", {}, "is steady")],
)
def test_an_unusable_surrogate_is_refused(equation: str, changes: dict[str, Any], message: str) -> None:
    surrogate = surrogate_of(equation, corrections=())
    training = solved("burgers") if equation == "burgers" else solved("darcy", frames=2)
    with pytest.raises(UserError, match=message):
        fit_search(surrogate, config_of({"min_correlation": 0.0}, **changes), training)


def test_one_candidate_needs_no_reward() -> None:
    search = fit_search(surrogate_of("burgers"), config_of({"min_correlation": 1.0}, candidates=1), solved("burgers"))
    assert reward_of(search).terms == ()
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    found = surrogate.with_search(search).rollout(start, parameters, 4)
    assert torch.equal(found, surrogate.rollout(start, parameters, 4))


def test_a_reward_comes_back_from_json() -> None:
    surrogate = surrogate_of("burgers")
    reward = reward_of(fit_search(surrogate, config_of({"min_correlation": 0.0}), solved("burgers")))
    back = FittedReward.from_json(json.loads(json.dumps(reward.to_json())))
    assert back == reward
    start, parameters = start_of("burgers")
    seen: list[Pool] = []
    search = Search(config_of(), reward, observe=seen.append)
    frames = search.frames(surrogate, comoving(surrogate, start), parameters, 3, (0, 0))
    assert torch.equal(
        Search(config_of(), back).frames(surrogate, comoving(surrogate, start), parameters, 3, (0, 0)), frames
    )
    for pool in seen:
        one, two = reward.judge(pool.move), back.judge(pool.move)
        assert torch.equal(one.score_HK, two.score_HK)
        assert torch.equal(one.merit_HK, two.merit_HK)


def test_a_fitted_residual_lowers_the_error_of_a_rollout() -> None:
    """The term that knows the solution finds the better candidates of a bad model."""
    surrogate, training = surrogate_of("burgers"), solved("burgers")
    config = config_of({"without": ("conservation",)}, candidates=8)
    searched = surrogate.with_search(fit_search(surrogate, config, training))
    start = torch.from_numpy(np.array(training.fields_STXC[:, 0]))
    truth = torch.from_numpy(np.array(training.fields_STXC[:, 1:]))
    parameters = torch.from_numpy(np.array(training.parameters_SP))
    errors = [
        float((each.rollout(start, parameters, truth.shape[1]) - truth).square().mean())
        for each in (surrogate, searched)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["dissipation", "maximum_principle", "total_variation", "residual", "conservation"])
def test_a_bound_ranks_above_its_tolerance_and_a_distance_everywhere(name: TermName) -> None:
    spec = spec_of("burgers")
    start, parameters = start_of("burgers", 3)
    noise = torch.randn(3, 5, 32, 1, generator=torch.Generator().manual_seed(0))
    move = Move(spec, start, start[:, None] + 0.3 * noise, parameters, torch.tensor([1e-3]), torch.arange(3), 1)
    violation, _ = TERMS[name].measure(move)
    middle = float(violation.median())
    values = term_values(name, middle, move)
    expected = violation if TERMS[name].is_distance else (violation - middle).clamp_min(0)
    assert torch.equal(values, expected)
    if not TERMS[name].is_distance:
        # the score of the fitted term, whose rank it is
        score = FittedReward((replace(term(name), tolerance=middle, spread=1.0),)).judge(move).score_HK
        torch.testing.assert_close(-score, values)


def test_the_parameters_of_the_fakes_are_those_of_the_equations() -> None:
    assert {name: len(values) for name, values in PARAMETERS.items()} == {
        name: len(each.parameters) for name, each in EQUATIONS.items()
    }


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (2, 7, 3), elements=st.integers(-3, 3).map(float)))
def test_spearman_is_scipys(values: np.ndarray) -> None:
    found = spearman(values[0], values[1])
    for column in range(3):
        one, two = values[0][:, column], values[1][:, column]
        if np.ptp(one) == 0 or np.ptp(two) == 0:
            assert found[column] == 0
        else:
            assert found[column] == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)

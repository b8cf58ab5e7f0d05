"""Laws of the rewards: the truth has nothing to answer for, nothing is above it, and each term sees its own fault.

S trajectories, T frames, H states, K candidates, X cells, C channels, P parameters.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fakes_search import PARAMETERS, spec_of, surrogate_of, term
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from ups.core.errors import ConfigError
from ups.core.integrators import integrate_burgers
from ups.core.types import FieldSpec
from ups.data.generators import generate
from ups.data.task import Trajectories, load_file
from ups.inference.reward_fit import fit_search
from ups.inference.rewards import (
    TERMS,
    AdaptiveReward,
    CompositeReward,
    FittedReward,
    Move,
    TermName,
    TrueError,
    applicable,
)
from ups.inference.search_config import SearchConfig

FLOOR = torch.tensor([1e-3])
few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
LAWS: dict[str, list[TermName]] = {
    "burgers": ["conservation", "dissipation", "maximum_principle", "total_variation", "residual"],
    "advection": ["conservation", "maximum_principle", "total_variation", "residual"],
    "reaction_diffusion": ["positivity"],
    "navier_stokes": ["conservation", "dissipation", "maximum_principle", "positivity"],
    "diffusion_reaction": [],
    "darcy": ["positivity"],
}


def move_of(spec: FieldSpec, before_HXC: Tensor, after_HKXC: Tensor) -> Move:
    parameters = torch.tensor(PARAMETERS[spec.equation]).expand(len(before_HXC), -1)
    floor_C, sample_H = FLOOR.expand(spec.channels), torch.arange(len(before_HXC))
    return Move(spec, before_HXC, after_HKXC, parameters, floor_C, sample_H, 1)


# what applies


@pytest.mark.parametrize("equation", LAWS)
def test_terms_are_facts_of_the_equation(equation: str) -> None:
    assert applicable(spec_of(equation)) == LAWS[equation]


def test_walls_conserve_nothing_and_nothing_is_integrated_between_them() -> None:
    walled = replace(spec_of("burgers"), boundary="dirichlet")
    assert "conservation" not in applicable(walled)
    assert "residual" not in applicable(walled)


@pytest.mark.parametrize("equation", LAWS)
def test_adaptive_takes_what_the_equation_allows(equation: str) -> None:
    spec = spec_of(equation)
    if not LAWS[equation]:
        with pytest.raises(ConfigError, match=f"{equation} has no usable term; {equation} allows: none"):
            AdaptiveReward().weights(spec)
        return
    assert AdaptiveReward().weights(spec) == dict.fromkeys(LAWS[equation], 1.0)
    left_out = AdaptiveReward(without=tuple(LAWS[equation]))
    with pytest.raises(ConfigError, match=f"allows: {', '.join(LAWS[equation])}"):
        left_out.weights(spec)


@pytest.mark.parametrize("equation", LAWS)
def test_a_composite_of_a_term_that_does_not_hold_is_refused(equation: str) -> None:
    for name in TERMS:
        reward = CompositeReward.parse({"kind": "composite", name: 2.0})
        if name in LAWS[equation]:
            assert reward.weights(spec_of(equation)) == {name: 2.0}
        else:
            with pytest.raises(ConfigError, match=f"ttc.reward.{name}: not a law of {equation}; {equation} allows"):
                reward.weights(spec_of(equation))


def test_a_composite_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ttc\.reward: every weight is 0"):
        CompositeReward().weights(spec_of("burgers"))


# the truth


CASES = {"burgers-.01": ("burgers", 0.01), "burgers-.001": ("burgers", 0.001), "advection": ("advection", 0.4)}


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[FieldSpec, Trajectories]]:
    """96 trajectories of 64 cells and 21 frames of each case, strided from four times as many cells."""
    found = {}
    for case, (equation, value) in CASES.items():
        name = "nu" if equation == "burgers" else "beta"
        out = tmp_path_factory.mktemp("solved") / f"{case}.h5"
        file = generate(
            equation, out, parameters={name: value}, trajectories=96, cells=64, frames=21, dt=0.05, seed=5, oversample=4
        )
        found[case] = load_file(file, equation)
    return found


def rows_of(trajectories: Trajectories, rows: slice) -> Trajectories:
    return replace(
        trajectories,
        fields_STXC=np.array(trajectories.fields_STXC[rows]),
        parameters_SP=trajectories.parameters_SP[rows],
        file_S=trajectories.file_S[rows],
    )


def true_moves(spec: FieldSpec, trajectories: Trajectories) -> Move:
    """Every step of every trajectory, in the co-moving frame."""
    frame = surrogate_of(spec.equation, cells=64, corrections=()).frame
    fields = torch.from_numpy(np.array(trajectories.fields_STXC))
    fields = frame.enter(fields, frame.mean(fields[:, 0]))
    steps = fields.shape[1] - 1
    parameters = torch.from_numpy(np.array(trajectories.parameters_SP)).repeat_interleave(steps, 0)
    before, after = fields[:, :-1].flatten(0, 1), fields[:, 1:].flatten(0, 1)
    return Move(
        spec,
        before,
        after[:, None],
        parameters,
        FLOOR.expand(spec.channels),
        torch.zeros(len(before), dtype=torch.long),
        1,
    )


@pytest.mark.parametrize("case", CASES)
def test_the_truth_has_no_hinge(solved: dict[str, tuple[FieldSpec, Trajectories]], case: str) -> None:
    spec, whole = solved[case]
    known, unseen = rows_of(whole, slice(0, 64)), rows_of(whole, slice(64, 96))
    config = SearchConfig.parse({"noise_std": 0.1, "reward": {"kind": "adaptive", "min_correlation": 0.0}})
    surrogate = surrogate_of(spec.equation, cells=64, corrections=())
    reward = fit_search(surrogate, config, known).reward
    assert isinstance(reward, FittedReward)
    assert {each.name for each in reward.terms} == set(LAWS[spec.equation])
    for trajectories, least in ((known, 0.99), (unseen, 0.98)):
        move = true_moves(spec, trajectories)
        for each in reward.terms:
            alone = FittedReward((replace(each, spread=max(each.spread, 1e-6), used=True),))
            score_H = alone.judge(move).score_HK[:, 0]
            share = float((score_H == 0).float().mean())
            # the quantile lies between two frames
            assert share >= least - 1 / len(score_H), (each, share)


@few
@given(
    before=hnp.arrays(np.float32, (2, 16, 1), elements=st.floats(-3, 3, width=32)),
    after=hnp.arrays(np.float32, (2, 3, 16, 1), elements=st.floats(-1e3, 1e3, width=32)),
    tolerance=st.floats(-0.1, 0.1),
    equation=st.sampled_from(["burgers", "advection", "reaction_diffusion"]),
)
def test_nothing_scores_above_the_truth(before: np.ndarray, after: np.ndarray, tolerance: float, equation: str) -> None:
    spec = spec_of(equation, 16)
    reward = FittedReward(tuple(term(name, tolerance=tolerance) for name in LAWS[equation]))
    judgement = reward.judge(move_of(spec, torch.from_numpy(before), torch.from_numpy(after)))
    assert bool((judgement.score_HK <= 0).all())
    assert bool((judgement.merit_HK <= judgement.score_HK).all())
    if judgement.density_HKX is not None:
        assert judgement.density_HKX.shape == (2, 3, 16)
        assert bool((judgement.density_HKX >= 0).all())


# each term and its own fault


@cache
def wave(equation: str) -> tuple[FieldSpec, Tensor, Tensor]:
    """A spec, a field and the field a step later, which keeps every law to rounding."""
    spec = spec_of(equation, 64)
    x = (torch.arange(64) + 0.5) / 64
    before = torch.sin(2 * math.pi * x)[None] + 0.4 * torch.cos(4 * math.pi * x)[None]
    value = torch.tensor(PARAMETERS[equation][:1])
    if equation == "burgers":
        after = integrate_burgers(before, value, spec.dt, spec.length)
    elif equation == "advection":
        # by exactly one and by exactly two cells
        spec = replace(spec, dt=2 / 64 / float(value))
        after = before.roll(2, -1)
    else:
        before = before.square()
        after = before * 1.01
    return spec, before[..., None], after[..., None]


def faulty(fault: str, spec: FieldSpec, before: Tensor, after: Tensor) -> Tensor:
    x = ((torch.arange(64) + 0.5) / 64)[None, :, None]
    high, low = before.amax(), before.amin()
    if fault == "mean":
        return after + 0.1
    if fault == "energy":
        # at the old mean, within the old extremes
        return 1.5 * after * float(before.norm() / after.norm())
    if fault == "overshoot":
        return torch.where(after == after.amax(), high + 0.3, after)
    if fault == "undershoot":
        return torch.where(after == after.amin(), low - 0.3, after)
    if fault == "oscillation":
        return after + 0.15 * torch.cos(math.pi * 64 * x - math.pi / 2)
    if fault == "shift":
        return after.roll(3, 1)
    assert fault == "negative"
    return torch.where(after == after.amin(), -0.3, after)


@pytest.mark.parametrize(
    ("equation", "fault", "name"),
    [
        ("burgers", "mean", "conservation"),
        ("burgers", "energy", "dissipation"),
        ("burgers", "overshoot", "maximum_principle"),
        ("burgers", "undershoot", "maximum_principle"),
        ("burgers", "oscillation", "total_variation"),
        ("burgers", "shift", "residual"),
        ("advection", "mean", "conservation"),
        ("advection", "energy", "conservation"),
        ("advection", "overshoot", "maximum_principle"),
        ("advection", "oscillation", "total_variation"),
        ("advection", "shift", "residual"),
        ("reaction_diffusion", "negative", "positivity"),
    ],
)
def test_a_term_sees_its_own_fault(equation: str, fault: str, name: TermName) -> None:
    spec, before, after = wave(equation)
    candidates = torch.stack([after, faulty(fault, spec, before, after)], 1)
    judgement = FittedReward((term(name, tolerance=1e-3),)).judge(move_of(spec, before, candidates))
    assert float(judgement.score_HK[0, 0]) == 0
    assert float(judgement.score_HK[0, 1]) < -0.1
    assert float(judgement.merit_HK[0, 1]) < float(judgement.merit_HK[0, 0])


@pytest.mark.parametrize(
    ("equation", "fault", "blind"),
    [
        ("burgers", "shift", ["conservation", "dissipation", "maximum_principle", "total_variation"]),
        ("advection", "shift", ["conservation", "maximum_principle", "total_variation"]),
        ("burgers", "overshoot", ["dissipation"]),
    ],
)
def test_a_term_does_not_see_what_is_none_of_its_business(equation: str, fault: str, blind: list[TermName]) -> None:
    spec, before, after = wave(equation)
    wrong = faulty(fault, spec, before, after)[:, None]
    for name in blind:
        assert float(FittedReward((term(name, tolerance=1e-3),)).judge(move_of(spec, before, wrong)).score_HK) == 0, (
            name
        )


@pytest.mark.parametrize(("name", "cell"), [("maximum_principle", 20), ("residual", 41), ("positivity", 7)])
def test_a_local_term_says_where(name: TermName, cell: int) -> None:
    spec, before, after = wave("reaction_diffusion" if name == "positivity" else "burgers")
    wrong = after.clone()
    wrong[:, cell] = -4.0
    density = FittedReward((term(name),)).judge(move_of(spec, before, wrong[:, None])).density_HKX
    assert density is not None
    assert int(density[0, 0].argmax()) == cell
    assert float(density[0, 0].sum() - density[0, 0, cell]) < 0.01 * float(density[0, 0, cell])


def test_a_term_without_a_place_has_no_density() -> None:
    spec, before, after = wave("burgers")
    reward = FittedReward((term("conservation"), term("dissipation")))
    assert not reward.is_local
    assert reward.judge(move_of(spec, before, after[:, None])).density_HKX is None


@few
@given(factor=st.floats(0.01, 100), seed=st.integers(0, 100), name=st.sampled_from(LAWS["burgers"]))
def test_scaling_a_weight_scales_its_part(factor: float, seed: int, name: TermName) -> None:
    spec, before, after = wave("burgers")
    noise = torch.randn(1, 4, 64, 1, generator=torch.Generator().manual_seed(seed))
    move = move_of(spec, before, after[:, None] + noise)
    others = tuple(term(each) for each in LAWS["burgers"] if each != name)
    part = FittedReward((term(name),)).judge(move)
    rest = FittedReward(others).judge(move)
    both = FittedReward((*others, term(name, weight=factor))).judge(move)
    torch.testing.assert_close(both.score_HK, rest.score_HK + factor * part.score_HK, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(both.merit_HK, rest.merit_HK + factor * part.merit_HK, rtol=1e-4, atol=1e-3)


def test_a_term_in_units_of_its_spread() -> None:
    """Twice the spread is half the weight."""
    spec, before, after = wave("burgers")
    move = move_of(spec, before, (after + 0.3)[:, None])
    wide, light = (FittedReward((each,)).judge(move) for each in (term("residual", spread=0.2), term("residual", 0.5)))
    torch.testing.assert_close(wide.score_HK, light.score_HK)
    torch.testing.assert_close(wide.density_HKX, light.density_HKX)


def test_a_distance_decides_within_the_tolerance_and_a_bound_does_not() -> None:
    spec, before, after = wave("burgers")
    candidates = torch.stack([after.roll(2, 1), after.roll(1, 1)], 1)
    move = move_of(spec, before, candidates)
    distance = FittedReward((term("residual", tolerance=10.0),)).judge(move)
    assert distance.score_HK.tolist() == [[0.0, 0.0]]
    assert float(distance.merit_HK[0, 1]) > float(distance.merit_HK[0, 0])
    bound = FittedReward((term("dissipation", tolerance=10.0),)).judge(move)
    assert bound.merit_HK.tolist() == [[0.0, 0.0]]


def test_what_is_not_used_judges_nothing() -> None:
    spec, before, after = wave("burgers")
    idle = replace(term("residual"), used=False)
    move = move_of(spec, before, (after + 1)[:, None])
    assert FittedReward((idle,)).judge(move).merit_HK.tolist() == [[0.0]]
    assert not FittedReward((idle,)).is_local


def test_the_oracle_ranks_by_the_distance_of_its_own_step_and_sample() -> None:
    truth = torch.randn(3, 4, 16, 1, generator=torch.Generator().manual_seed(0))
    spec = spec_of("burgers", 16)
    oracle = TrueError(truth)
    steps = torch.stack([truth[:, 2], truth[:, 2] + 0.5, truth[:, 1]], 1)
    move = replace(move_of(spec, truth[:, 1], steps), number=3, sample_H=torch.tensor([0, 1, 2]))
    judgement = oracle.judge(move)
    assert judgement.score_HK[:, 0].tolist() == [0, 0, 0]
    torch.testing.assert_close(judgement.score_HK[:, 1], torch.full((3,), -0.5))
    turned = oracle.judge(move.select(torch.tensor([2, 0])))
    torch.testing.assert_close(turned.score_HK, judgement.score_HK[[2, 0]])


def test_hypotheses_are_judged_on_their_own() -> None:
    spec, before, after = wave("burgers")
    draw = torch.Generator().manual_seed(0)
    befores = before + 0.1 * torch.randn(4, 64, 1, generator=draw)
    afters = after[:, None] + 0.1 * torch.randn(4, 3, 64, 1, generator=draw)
    befores[3] = torch.nan
    reward = FittedReward(tuple(term(name) for name in LAWS["burgers"]))
    whole = reward.judge(move_of(spec, befores, afters))
    part = reward.judge(move_of(spec, befores, afters).select(torch.tensor([2, 0])))
    torch.testing.assert_close(part.merit_HK, whole.merit_HK[[2, 0]])
    torch.testing.assert_close(part.density_HKX, whole.density_HKX[[2, 0]])  # type: ignore[index]
    assert bool(whole.merit_HK[:3].isfinite().all())
    assert not bool(whole.merit_HK[3].isfinite().any())

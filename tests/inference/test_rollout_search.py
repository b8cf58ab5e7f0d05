"""Laws of the search: one candidate is the plain rollout, the budget holds, samples do not see each other.

B samples, T frames, W beam, H hypotheses, K candidates, X all spatial axes, C channels, N tokens, D latent width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from fakes_search import Counting, Indifferent, Smallest, comoving, relative, reward_of, spec_of, start_of, surrogate_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ups.core.errors import ConfigError, UserError
from ups.inference.candidates import Candidates, pooled, shared_out
from ups.inference.rewards import FittedReward, Judgement, Move, TrueError
from ups.inference.search import Effort, Pool, Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Correction, Surrogate
from ups.models.corrector import Corrector
from ups.models.latent import LatentModel

few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
MODES: dict[str, dict[str, Any]] = {
    "reencode": {"rollout": "reencode"},
    "reencode-2": {"rollout": "reencode", "reencode_every": 2},
    "latent": {"rollout": "latent"},
}
every_mode = pytest.mark.parametrize("mode", MODES)


def config_of(**changes: Any) -> SearchConfig:
    return SearchConfig.parse({"noise_std": 0.1, **changes})


@st.composite
def rich_configs(draw: st.DrawFn) -> SearchConfig:
    candidates = draw(st.integers(2, 6))
    beam_width, horizon = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    least = 2 * beam_width + (beam_width + 1) * (horizon - 1)
    return config_of(
        candidates=candidates,
        rounds=draw(st.integers(1, min(3, candidates))),
        beam_width=beam_width,
        horizon=horizon,
        early_stop=draw(st.sampled_from([None, 0.02, 0.5, 1.5])),
        max_evaluations=draw(st.integers(least, least + 16)),
        steps=draw(st.sampled_from([None, 1, 2, 3])),
        choice=draw(st.sampled_from(["sample", "token"])),
        source=draw(st.sampled_from(["none", "diffusion", "student"])),
    )


# one candidate


@every_mode
@pytest.mark.parametrize("chosen", ["none", "diffusion", "student"])
@pytest.mark.parametrize("equation", ["burgers", "reaction_diffusion", "navier_stokes", "diffusion_reaction"])
def test_one_candidate_is_the_plain_rollout_bit_for_bit(equation: str, chosen: Correction, mode: str) -> None:
    surrogate = surrogate_of(equation, chosen=chosen, **MODES[mode])
    start, parameters = start_of(equation, 3)
    plain = surrogate.rollout(start, parameters, 5)
    assert (plain[:, 1:] - plain[:, :-1]).abs().amax((0, *range(2, plain.ndim))).min() > 1e-3
    for changes in (
        {"choice": "sample"},
        {"choice": "token", "steps": 3, "source": "diffusion", "around": "operator"},
        {"early_stop": 0.1, "max_evaluations": 1, "source": "student"},
    ):
        searched = surrogate.with_search(Search(config_of(candidates=1, **changes), Smallest()))
        assert torch.equal(searched.rollout(start, parameters, 5), plain), changes
        assert torch.equal(
            searched.sample(start, parameters, 3, members=2), surrogate.sample(start, parameters, 3, members=2)
        )


@pytest.mark.parametrize(("beam_width", "horizon", "least"), [(1, 1, 2), (4, 1, 8), (1, 3, 6), (2, 3, 10)])
def test_a_budget_without_a_choice_is_refused(beam_width: int, horizon: int, least: int) -> None:
    """Two candidates of every hypothesis, and look-ahead from one more than survives."""
    settings = {"candidates": 8, "beam_width": beam_width, "horizon": horizon}
    config_of(**settings, max_evaluations=least)
    with pytest.raises(ConfigError, match=f"max_evaluations must be at least {least} "):
        config_of(**settings, max_evaluations=least - 1)


@every_mode
def test_steps_after_the_searched_ones_are_plain(mode: str) -> None:
    """From where the search left off: a search of all steps whose candidates equal from then on."""
    surrogate = surrogate_of("burgers", **MODES[mode])
    start, parameters = start_of("burgers")

    @dataclass(frozen=True)
    class FirstAlone:
        is_local = True

        def judge(self, move: Move) -> Judgement:
            return (Smallest() if move.number <= 2 else Indifferent()).judge(move)

    some = surrogate.with_search(Search(config_of(steps=2), Smallest())).rollout(start, parameters, 5)
    whole = surrogate.with_search(Search(config_of(), FirstAlone())).rollout(start, parameters, 5)
    assert relative(some, whole) < 1e-5
    assert relative(some, surrogate.rollout(start, parameters, 5)) > 1e-3


def test_a_mode_that_is_named_is_rolled_out_without_a_search() -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    searched = surrogate.with_search(Search(config_of(), Smallest()))
    for mode in ("reencode", "latent"):
        named = searched.rollout(start, parameters, 3, mode)
        assert torch.equal(named, surrogate.rollout(start, parameters, 3, mode))


# nested candidates


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "none"},
        {"source": "diffusion", "noise_std": 0.0},
        {"source": "student", "noise_std": 0.0},
        {"source": "diffusion", "noise_std": 0.0, "around": "operator"},
        {"source": "student"},
    ],
    ids=["gaussian", "diffusion", "student", "around-operator", "both"],
)
@pytest.mark.parametrize("equation", ["burgers", "navier_stokes"])
def test_best_of_more_candidates_is_never_worse(equation: str, changes: dict[str, Any]) -> None:
    surrogate = surrogate_of(equation)
    start, parameters = start_of(equation)
    start = comoving(surrogate, start)
    hidden = config_of(candidates=2, choice="sample")
    truth = Search(hidden, Smallest()).frames(surrogate, start, parameters, 1, (7, 0))
    before: Tensor | None = None
    least = torch.full((len(start),), torch.inf)
    for count in range(1, 13):
        seen: list[Pool] = []
        config = config_of(candidates=count, choice="sample", **changes)
        found = Search(config, TrueError(truth), observe=seen.append).frames(surrogate, start, parameters, 1, (0, 0))
        pool_HKXC = seen[0].move.after_HKXC
        assert pool_HKXC.shape[1] == count
        if before is not None:
            torch.testing.assert_close(pool_HKXC[:, :-1], before, rtol=1e-5, atol=1e-5)
            assert (pool_HKXC[:, -1:] - before).abs().flatten(2).amax(-1).min() > 1e-4, "candidates differ"
        before = pool_HKXC
        error = (found - truth).flatten(1).square().mean(1).sqrt()
        assert bool((error <= least + 1e-6).all())
        least = torch.minimum(least, error)


# budget


@few
@given(config=rich_configs(), mode=st.sampled_from(list(MODES)))
def test_the_budget_is_never_exceeded(config: SearchConfig, mode: str) -> None:
    surrogate = surrogate_of("burgers", **MODES[mode])
    start, parameters = start_of("burgers", 3)
    effort = Effort()
    counting = Counting(Smallest(), effort, len(start))
    Search(config, counting, effort).frames(surrogate, comoving(surrogate, start), parameters, 4, (0, 0))
    assert max(counting.judged.values()) == effort.most <= config.max_evaluations
    assert sum(counting.judged.values()) == effort.evaluations
    assert {step for _, step in counting.judged} == set(range(min(4, config.steps or 4)))


def test_the_effort_is_counted() -> None:
    """Every call of a network, by hand: three searched steps of two hypotheses with five candidates each."""
    surrogate = surrogate_of("burgers")
    calls = {"operator": 0, "decoder": 0, "source": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(module: Any, given: tuple[Tensor, ...]) -> None:
            calls[name] += len(given[0])

        return hook

    model, source = surrogate.model, surrogate.corrections["diffusion"]
    assert isinstance(model, LatentModel)
    assert isinstance(source, Corrector)
    model.operator.register_forward_pre_hook(count("operator"))
    model.decoder.register_forward_pre_hook(count("decoder"))
    source.trunk.register_forward_pre_hook(count("source"))
    start, parameters = start_of("burgers", 3)
    config = config_of(candidates=5, beam_width=2, horizon=2, steps=3, max_evaluations=12, source="diffusion")
    search = Search(config, Smallest())
    search.frames(surrogate, comoving(surrogate, start), parameters, 4, (0, 0))
    effort = search.effort
    assert (effort.trajectories, effort.steps) == (3, 9)
    assert {name: getattr(effort, name) for name in calls} == calls


# samples on their own


def companions(start_BXC: Tensor, value: float) -> Tensor:
    """The same samples, and one of which every cell is `value`, in another order."""
    strange = torch.full_like(start_BXC[:1], value)
    strange[:, 0] = -value
    return torch.cat([start_BXC[2:], strange, start_BXC[:2].flip(0)])


def alone_and_together(surrogate: Surrogate, equation: str, dtype: torch.dtype, strange: tuple[float, ...]) -> None:
    surrogate = surrogate.to(dtype)
    start, parameters = (each.to(dtype) for each in start_of(equation))
    alone = torch.cat([surrogate.rollout(start[row : row + 1], parameters[:1], 4) for row in range(len(start))])
    assert bool(alone.isfinite().all())
    whole = surrogate.rollout(start, parameters, 4)
    for value in strange:
        mixed = surrogate.rollout(companions(start, value), parameters[:1].expand(len(start) + 1, -1), 4)
        again = torch.cat([mixed[-2:].flip(0), mixed[: len(start) - 2]])
        for row in range(len(start)):
            assert relative(whole[row], alone[row]) < 1e-5, row
            assert relative(again[row], alone[row]) < 1e-5, (row, value)


@few
@given(config=rich_configs(), mode=st.sampled_from(list(MODES)), equation=st.sampled_from(["burgers", "navier_stokes"]))
def test_a_sample_does_not_see_the_others(config: SearchConfig, mode: str, equation: str) -> None:
    """In double precision, where rounding does not decide between candidates that are nearly the same."""
    surrogate = surrogate_of(equation, **MODES[mode]).with_search(Search(config, reward_of(equation)))
    alone_and_together(surrogate, equation, torch.float64, (10.0, torch.nan))


@every_mode
@pytest.mark.parametrize("value", [30.0, 1e20, torch.inf, torch.nan])
def test_a_sample_does_not_see_the_others_in_single_precision(mode: str, value: float) -> None:
    config = config_of(
        candidates=6, rounds=2, beam_width=3, horizon=2, early_stop=1.5, max_evaluations=24, source="student"
    )
    surrogate = surrogate_of("burgers", **MODES[mode]).with_search(Search(config, reward_of("burgers")))
    alone_and_together(surrogate, "burgers", torch.float32, (value,))


@pytest.mark.parametrize("horizon", [1, 2])
def test_who_stops_later_does_not_widen_the_beam_of_the_others(horizon: int) -> None:
    """A budget that the beam divides: hypotheses that only the companion has would take candidates from the others."""
    config = config_of(
        candidates=4,
        rounds=4,
        beam_width=4,
        early_stop=1.0,
        max_evaluations=3 + 5 * horizon,
        choice="sample",
        horizon=horizon,
    )
    surrogate = surrogate_of("burgers").with_search(Search(config, reward_of("burgers")))
    alone_and_together(surrogate, "burgers", torch.float64, (30.0, torch.nan))


# beam and look-ahead


@few
@given(config=rich_configs(), mode=st.sampled_from(list(MODES)))
def test_the_prediction_is_a_chain_of_candidates(config: SearchConfig, mode: str) -> None:
    surrogate = surrogate_of("burgers", **MODES[mode])
    start, parameters = start_of("burgers", 3)
    start = comoving(surrogate, start)
    truth = surrogate.unroll(start, parameters, 4, noise=(3, 0)) * 0.9
    seen: list[Pool] = []
    search = Search(config, TrueError(truth), observe=seen.append)
    frames = search.frames(surrogate, start, parameters, 4, (0, 0))
    assert len(seen) == min(4, config.steps or 4)
    for sample in range(len(start)):
        before = start[sample]
        for pool, frame in zip(seen, frames[sample], strict=False):
            move = pool.move
            parents = (move.sample_H == sample) & (move.before_HXC == before).flatten(1).all(1)
            assert bool(parents.any()), "the frame before is a hypothesis"
            choices = move.after_HKXC[parents][pool.judged_HK[parents]]
            assert bool((choices == frame).flatten(1).all(1).any()), "and this one of its candidates"
            before = frame


@dataclass
class Trap:
    """Candidate 1 of the first step is the best, and whatever follows it is bad."""

    is_local = False
    trap_BXC: Tensor | None = field(default=None)

    def judge(self, move: Move) -> Judgement:
        merit_HK = torch.zeros(move.after_HKXC.shape[:2])
        if move.number == 1:
            self.trap_BXC = move.after_HKXC[:, 1]
            merit_HK[:, 1] = 1.0
        elif move.number == 2:
            assert self.trap_BXC is not None
            merit_HK[self.fallen(move.before_HXC, move.sample_H)] = -10.0
        return Judgement(merit_HK, merit_HK, None)

    def fallen(self, field_HXC: Tensor, sample_H: Tensor) -> Tensor:
        assert self.trap_BXC is not None
        return (field_HXC - self.trap_BXC[sample_H]).abs().flatten(1).amax(1) < 1e-6


@pytest.mark.parametrize(
    ("changes", "falls"),
    [({}, True), ({"beam_width": 2}, False), ({"horizon": 2}, False)],
    ids=["greedy", "beam", "horizon"],
)
def test_a_beam_or_a_look_ahead_sees_the_trap(changes: dict[str, Any], falls: bool) -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    trap = Trap()
    search = Search(config_of(candidates=4, **changes), trap)
    frames = search.frames(surrogate, comoving(surrogate, start), parameters, 3, (0, 0))
    assert trap.fallen(frames[:, 0], torch.arange(len(start))).tolist() == [falls] * len(start)


def test_a_clear_lead_is_not_looked_ahead_from() -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    effort, seen = Effort(), []
    for margin in (1e-6, None):
        config = config_of(candidates=4, horizon=2, early_stop=margin)
        search = Search(config, Smallest())
        search.frames(surrogate, comoving(surrogate, start), parameters, 2, (0, 0))
        effort = search.effort
        seen.append(effort.evaluations)
    assert seen == [len(start) * 8, len(start) * 12]


# rounds, tokens


@given(st.integers(1, 40), st.integers(1, 9))
def test_rounds_share_all_candidates(candidates: int, rounds: int) -> None:
    sizes = shared_out(candidates, rounds)
    assert sum(sizes) == candidates
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= 1


def slowly_pooled(density: Tensor, grid: tuple[int, ...], periodic: bool) -> Tensor:
    """The mean of a token's cells, then of the token and its neighbours; beyond a wall lies the last token again."""
    *_, height, width = density.shape
    rows, columns = grid
    by_token = torch.stack(
        [
            density[
                ..., i * height // rows : (i + 1) * height // rows, j * width // columns : (j + 1) * width // columns
            ].mean((-1, -2))
            for i in range(rows)
            for j in range(columns)
        ],
        -1,
    ).unflatten(-1, grid)

    def at(place: int, count: int) -> int:
        return place % count if periodic else min(max(place, 0), count - 1)

    near = [(-1, 0, 1), (-1, 0, 1) if columns > 1 else (0,)]
    means = [
        torch.stack([by_token[..., at(i + a, rows), at(j + b, columns)] for a in near[0] for b in near[1]]).mean(0)
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.stack(means, -1)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("cells", "grid"), [((32,), (8,)), ((16, 24), (4, 3)), ((12, 12), (6, 2))])
def test_the_density_of_a_token_is_that_of_it_and_its_neighbours(
    cells: tuple[int, ...], grid: tuple[int, ...], periodic: bool
) -> None:
    density = torch.rand(5, *cells, generator=torch.Generator().manual_seed(0))
    flat = len(cells) == 1
    slow = slowly_pooled(density[..., None] if flat else density, (*grid, 1) if flat else grid, periodic)
    torch.testing.assert_close(pooled(density, grid, periodic=periodic), slow)


@pytest.mark.parametrize(("equation", "grid"), [("burgers", (16,)), ("diffusion_reaction", (4, 4))])
def test_a_recombined_latent_has_every_token_from_the_locally_best(equation: str, grid: tuple[int, ...]) -> None:
    spec = spec_of(equation)
    draw = torch.Generator().manual_seed(0)
    cells = spec.cells[0] ** spec.axes
    density = torch.rand(3, 5, cells, generator=draw)
    density[0, 2] = torch.nan
    latent = torch.randn(3, 5, 16, 8, generator=draw)
    judged = torch.ones(3, 5, dtype=torch.bool)
    judged[1, 3] = False
    density[1, 3] = 0.0
    nothing = torch.zeros(3, 5)
    fields = torch.zeros(3, 5, *spec.cells, spec.channels)
    made = Candidates(latent, fields, Judgement(nothing, nothing, density), judged)
    mixed = made.recombined(spec, grid)
    by_token = pooled(density.view(15, *spec.cells), grid, periodic=spec.boundary == "periodic").view(3, 5, 16)
    for row in range(3):
        allowed = [k for k in range(5) if (row, k) not in ((0, 2), (1, 3))]
        for token in range(16):
            best = min(allowed, key=lambda k: float(by_token[row, k, token]))
            assert torch.equal(mixed[row, token], latent[row, best, token])


@pytest.mark.parametrize("equation", ["burgers", "diffusion_reaction"])
def test_recombination_lowers_the_error(equation: str) -> None:
    """Towards a field that a draw of another seed leads to, best of as many candidates."""
    surrogate = surrogate_of(equation)
    start, parameters = start_of(equation, 16)
    start = comoving(surrogate, start)
    errors: dict[str, list[Tensor]] = {"sample": [], "token": []}
    for seed in range(3):
        seen: list[Pool] = []
        Search(config_of(candidates=2, choice="sample"), Indifferent(), observe=seen.append).frames(
            surrogate, start, parameters, 1, (100 + seed, 0)
        )
        truth = seen[0].move.after_HKXC[:, 1:2]
        for choice, found in errors.items():
            search = Search(config_of(candidates=8, choice=choice), TrueError(truth))
            frames = search.frames(surrogate, start, parameters, 1, (seed, 0))
            found.append((frames - truth).flatten(1).square().mean(1).sqrt())
    assert torch.stack(errors["token"]).mean() < 0.99 * torch.stack(errors["sample"]).mean()


def test_later_rounds_are_drawn_around_the_best_so_far_and_nearer() -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    seen: list[Pool] = []
    config = config_of(candidates=9, rounds=3, round_decay=0.1, choice="sample")
    Search(config, Smallest(), observe=seen.append).frames(surrogate, comoving(surrogate, start), parameters, 1, (0, 0))
    pool_BKXC, merit_BK = seen[0].move.after_HKXC, seen[0].judgement.merit_HK
    rows = torch.arange(len(start))
    reach = []
    for first in (0, 3, 6):
        centre = 0 if first == 0 else merit_BK[:, :first].argmax(1)
        away = pool_BKXC[:, first + (first == 0) : first + 3] - pool_BKXC[rows, centre][:, None]
        reach.append(float(away.square().mean().sqrt()))
    assert 0.05 < reach[1] / reach[0] < 0.2
    assert 0.05 < reach[2] / reach[1] < 0.2


# ties, and what is not finite


@few
@given(config=rich_configs(), mode=st.sampled_from(list(MODES)))
def test_where_nothing_tells_candidates_apart_the_plain_one_is_taken(config: SearchConfig, mode: str) -> None:
    surrogate = surrogate_of("burgers", **MODES[mode])
    start, parameters = start_of("burgers", 2)
    searched = surrogate.with_search(Search(config, Indifferent()))
    assert relative(searched.rollout(start, parameters, 4), surrogate.rollout(start, parameters, 4)) < 1e-5


@dataclass(frozen=True)
class Poison:
    """Says that some candidates are the best, and cannot say how good: NaN, or infinite."""

    value: float
    first: int
    """candidates below this number have a merit"""
    is_local = True

    def judge(self, move: Move) -> Judgement:
        judgement = Smallest().judge(move)
        merit_HK = judgement.merit_HK.clone()
        if merit_HK.shape[1] > self.first:
            merit_HK[:, self.first :] = self.value
        return replace(judgement, score_HK=merit_HK, merit_HK=merit_HK)


@pytest.mark.parametrize("changes", [{}, {"beam_width": 3}, {"early_stop": 0.1, "beam_width": 3}, {"horizon": 2}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_has_no_merit_is_not_chosen(value: float, changes: dict[str, Any]) -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    start = comoving(surrogate, start)
    config = config_of(candidates=4, choice="sample", **changes)
    found = Search(config, Poison(value, 1)).frames(surrogate, start, parameters, 3, (0, 0))
    assert relative(found, surrogate.unroll(start, parameters, 3)) < 1e-5


@dataclass
class Abyss:
    """Candidate 1 is the best of its step, and from there on nothing is finite."""

    trap: Trap = field(default_factory=Trap)
    is_local = False

    def judge(self, move: Move) -> Judgement:
        merit_HK = self.trap.judge(move).merit_HK.clone()
        merit_HK[merit_HK < 0] = torch.nan
        return Judgement(merit_HK, merit_HK, None)


@pytest.mark.parametrize("changes", [{"horizon": 2}, {"horizon": 3}, {"beam_width": 2}])
def test_a_candidate_that_leads_out_of_the_finite_range_is_not_chosen(changes: dict[str, Any]) -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    abyss = Abyss()
    search = Search(config_of(candidates=4, **changes), abyss)
    frames = search.frames(surrogate, comoving(surrogate, start), parameters, 3, (0, 0))
    assert not bool(abyss.trap.fallen(frames[:, 0], torch.arange(len(start))).any())


@few
@given(config=rich_configs(), value=st.sampled_from([torch.nan, torch.inf, 1e30]))
def test_where_nothing_is_finite_the_plain_rollout_comes_back(config: SearchConfig, value: float) -> None:
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers", 2)
    start = torch.full_like(start, value)
    start[:, ::2] *= -1
    found = surrogate.with_search(Search(config, reward_of("burgers"))).rollout(start, parameters, 3)
    plain = surrogate.rollout(start, parameters, 3)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4, equal_nan=True)


# refusals


@pytest.mark.parametrize(
    ("surrogate", "changes", "message"),
    [
        (lambda: surrogate_of("burgers", corrections=(), model={"baseline": {"kind": "fno"}}), {}, "no latent"),
        (lambda: surrogate_of("darcy", corrections=()), {}, "darcy is steady"),
        (lambda: surrogate_of("burgers", corrections=("diffusion",)), {"source": "student"}, "none, diffusion"),
        (lambda: surrogate_of("burgers", corrections=()), {"source": "diffusion"}, "was not trained"),
    ],
    ids=["baseline", "steady", "no-student", "no-diffusion"],
)
def test_what_cannot_be_searched_is_refused(
    surrogate: Callable[[], Surrogate], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        surrogate().with_search(Search(config_of(**changes), FittedReward(())))
    assert str(refused.value).startswith("ttc")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_std": 0.0}, "all candidates are equal"),
        ({"around": "operator"}, "needs a source"),
        ({"source": "student", "around": "operator", "rounds": 2}, "set rounds to 1"),
        ({"candidates": 2, "rounds": 3}, "rounds must be at most candidates"),
        ({"beam": 2}, "did you mean"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(**changes)


def test_one_candidate_needs_no_noise() -> None:
    assert config_of(candidates=1, noise_std=0.0).candidates == 1

"""What every term of the operator stage's loss must do: one suite over all of them, then each one's own promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes_losses import PARAMETERS, POINTS, batch_of, spec_of, surrogate_of
from torch import Tensor

from ups.core.errors import ConfigError
from ups.core.integrators import integrate_burgers
from ups.core.physics import EQUATIONS
from ups.data.generators.burgers import solve_burgers
from ups.inference.surrogate import Surrogate
from ups.inference.unroll import decodes_at_points, unroll
from ups.training.batches import Batch
from ups.training.losses import LossesConfig, operator_loss
from ups.training.losses.config import QueriesConfig
from ups.training.losses.physics import wall_weights
from ups.training.losses.terms import TERMS

PLAIN = LossesConfig()
# where each term means something; the mean is free only where the canonical frame does not hold it
CASES = [
    *((term, "burgers") for term in ("forward", "rollout", "inverse_encoding", "inverse_decoding", "spectral")),
    *((term, "burgers") for term in ("mean", "physics.residual", "latent_norm")),
    *((term, "navier_stokes") for term in ("forward", "rollout", "inverse_encoding", "inverse_decoding", "spectral")),
    *((term, "navier_stokes") for term in ("mean", "physics.divergence", "physics.positivity", "latent_norm")),
    *((term, "darcy") for term in ("forward", "inverse_encoding", "inverse_decoding", "spectral", "latent_norm")),
    *((term, "darcy") for term in ("physics.boundary", "physics.positivity")),
    ("physics.boundary", "diffusion_reaction"),
    ("physics.positivity", "reaction_diffusion"),
]
every_case = pytest.mark.parametrize(("term", "equation"), CASES)


def of_case(term: str, equation: str, **changes: Any) -> tuple[Surrogate, Batch]:
    symmetry = "none" if term == "mean" else "auto"
    # some of what is predicted must be negative
    perturbed = 0.3 if term == "physics.positivity" else 0.1
    return surrogate_of(equation, symmetry=symmetry, perturbed=perturbed, **changes), batch_of(equation)


def value_of(
    term: str, surrogate: Surrogate, batch: Batch, losses: LossesConfig = PLAIN, mode: str = "reencode"
) -> Tensor:
    """The term alone, with its gradient: the sum of the loss with it less the sum without."""
    if term == "forward":
        return operator_loss(surrogate, batch, losses, steps=1, mode=mode)[0]
    if term == "rollout":
        only = losses.override({"rollout.weight": 0.0})
        with_it = operator_loss(surrogate, batch, losses, steps=3, mode=mode)[0]
        return with_it - operator_loss(surrogate, batch, only, steps=3, mode=mode)[0]
    seen: list[Tensor] = []
    compute = TERMS[term]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TERMS, term, lambda prediction: seen.append(compute(prediction)) or seen[0])
        operator_loss(surrogate, batch, losses, steps=1, mode=mode, weights={term: 1.0})
    return seen[0]


def descend(term: str, surrogate: Surrogate, batch: Batch, steps: int = 40, lr: float = 3e-3) -> tuple[float, float]:
    """The term before and after it alone was trained on one batch."""
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=lr)
    first = float(value_of(term, surrogate, batch).detach())
    for _ in range(steps):
        optimizer.zero_grad()
        value_of(term, surrogate, batch).backward()
        optimizer.step()
    return first, float(value_of(term, surrogate, batch).detach())


def predicted(surrogate: Surrogate, batch: Batch) -> Tensor:
    """The first predicted frame as it is scored."""
    return surrogate.rollout(batch.fields_BTXC[:, 0], batch.parameters_BP, 1)[:, 0]


@every_case
def test_each_term_lowers_itself(term: str, equation: str) -> None:
    first, last = descend(term, *of_case(term, equation))
    assert first > 0
    assert last < 0.7 * first


@every_case
def test_each_term_reaches_exactly_its_parts(term: str, equation: str) -> None:
    surrogate, batch = of_case(term, equation)
    value_of(term, surrogate, batch).backward()
    reached = {name.split(".")[1] for name, p in surrogate.named_parameters() if p.grad is not None and p.grad.any()}
    steady = EQUATIONS[equation].steady
    expected = {
        "inverse_encoding": {"solution_encoder", "decoder"} if steady else {"encoder", "decoder"},
        "inverse_decoding": {"encoder", "operator", "decoder"} | ({"solution_encoder"} if steady else set()),
        "latent_norm": {"encoder"},
    }
    assert reached == expected.get(term, {"encoder", "operator", "decoder"})


@every_case
def test_a_term_without_weight_does_nothing(term: str, equation: str) -> None:
    if term in ("forward", "rollout"):
        return
    surrogate, batch = of_case(term, equation)
    off = LossesConfig().override({f"{term}.weight": 0.0})
    on = LossesConfig().override({f"{term}.weight": 0.5})
    assert off.weights(0, 0.0, 10) == {}
    assert on.weights(0, 0.0, 10) == {term: 0.5}
    plain, parts = operator_loss(surrogate, batch, off, steps=1, mode="reencode")
    assert set(parts) == {"forward"}
    full, parts = operator_loss(surrogate, batch, on, steps=1, mode="reencode", weights={term: 0.5})
    assert set(parts) == {"forward", term}
    assert float(full.detach()) == pytest.approx(float(plain.detach()) + 0.5 * parts[term], rel=1e-5)


REFUSALS = [
    ("mean", "reaction_diffusion", "conserves the mean"),
    ("mean", "burgers", "canonical frame"),
    ("physics.residual", "navier_stokes", "Burgers' equation alone"),
    ("physics.divergence", "burgers", "velocity"),
    ("physics.boundary", "burgers", "no|none"),
    ("physics.positivity", "diffusion_reaction", "never negative"),
]


@pytest.mark.parametrize(("term", "equation", "rule"), REFUSALS)
def test_meaningless_terms_are_refused(term: str, equation: str, rule: str) -> None:
    losses = LossesConfig().override({f"{term}.weight": 0.1})
    with pytest.raises(ConfigError, match=rf"stages\.operator\.losses\.{term}\.weight: .*{rule}") as error:
        losses.check(spec_of(equation), symmetry="auto", has_latent=True)
    assert "\n" not in str(error.value)
    LossesConfig().check(spec_of(equation), symmetry="auto", has_latent=False)


@pytest.mark.parametrize("term", ["inverse_encoding", "inverse_decoding", "latent_norm"])
def test_a_baseline_has_no_latent_terms(term: str) -> None:
    losses = LossesConfig().override({f"{term}.weight": 0.1})
    assert losses.needs_latent()
    with pytest.raises(ConfigError, match="a baseline has none"):
        losses.check(spec_of("burgers"), symmetry="auto", has_latent=False)


@pytest.mark.parametrize(("term", "equation"), CASES)
def test_every_listed_case_is_allowed(term: str, equation: str) -> None:
    symmetry = "none" if term == "mean" else "auto"
    losses = LossesConfig().override({f"{term}.weight": 0.1})
    losses.check(spec_of(equation), symmetry=symmetry, has_latent=True)


# --- what each term promises of the prediction ---


def test_positivity_removes_negatives() -> None:
    surrogate, batch = of_case("physics.positivity", "navier_stokes")
    before = predicted(surrogate, batch)[..., 2]
    descend("physics.positivity", surrogate, batch, steps=80)
    after = predicted(surrogate, batch)[..., 2]
    assert float(before.min()) < -0.05
    assert float(after.clamp_max(0).square().mean()) < 0.05 * float(before.clamp_max(0).square().mean())


@pytest.mark.parametrize("equation", ["burgers", "navier_stokes"])
def test_mean_reduces_drift(equation: str) -> None:
    surrogate, batch = of_case("mean", equation)
    given = batch.fields_BTXC[:, 0].flatten(1, -2).mean(1)

    def drift() -> float:
        return float((predicted(surrogate, batch).flatten(1, -2).mean(1) - given).abs().mean())

    before = drift()
    descend("mean", surrogate, batch, steps=80)
    assert drift() < 0.3 * before


def test_divergence_falls_and_that_of_the_truth_is_nothing() -> None:
    surrogate, batch = of_case("physics.divergence", "navier_stokes")
    first, last = descend("physics.divergence", surrogate, batch, steps=80)
    assert last < 0.3 * first
    assert of_truth("physics.divergence", surrogate, batch) < 1e-9


def test_boundary_brings_the_walls_to_their_condition() -> None:
    surrogate, batch = of_case("physics.boundary", "darcy")
    walls = torch.tensor(wall_weights(0.5, 0))

    def at_wall() -> float:
        return float((predicted(surrogate, batch)[:, :3, :, 0] * walls[:, None]).sum(1).abs().mean())

    before = at_wall()
    descend("physics.boundary", surrogate, batch, steps=80)
    assert at_wall() < 0.4 * before


@pytest.mark.parametrize("equation", ["darcy", "diffusion_reaction"])
def test_boundary_of_the_truth_is_small(equation: str) -> None:
    surrogate, batch = of_case("physics.boundary", equation)
    assert of_truth("physics.boundary", surrogate, batch) < 0.01 * float(
        value_of("physics.boundary", surrogate, batch).detach()
    )


@pytest.mark.parametrize("distance", [0.5, 0.125, 0.875])
def test_wall_weights_are_exact_for_parabolas(distance: float) -> None:
    x = torch.tensor([distance, distance + 1, distance + 2], dtype=torch.float64)
    field = 2 + 3 * x - 0.7 * x**2
    for order, truth in ((0, 2.0), (1, 3.0)):
        assert float((field * torch.tensor(wall_weights(distance, order)).double()).sum()) == pytest.approx(truth)


def test_residual_brings_the_prediction_to_the_truth_that_it_never_saw() -> None:
    surrogate, batch = of_case("physics.residual", "burgers")

    def error() -> float:
        return float((predicted(surrogate, batch) - batch.fields_BTXC[:, 1]).square().mean())

    before = error()
    descend("physics.residual", surrogate, batch, steps=80)
    assert error() < 0.5 * before


@pytest.mark.parametrize(("nu", "limit"), [(0.001, 0.1), (0.01, 0.02), (0.1, 0.02)])
def test_residual_of_the_truth_is_small(nu: float, limit: float) -> None:
    """Against the change of the field over a frame; the trapezoid residual of the truth is 85 % and 17 % of it."""
    x = (torch.arange(1024).double() + 0.5) / 1024
    phase = torch.tensor([[0.0, 0.4], [0.2, 0.7], [0.5, 0.1]]).double()
    start = sum(torch.sin(2 * torch.pi * (k * x + phase[:, k - 1 : k])) for k in (1, 2))
    truth = torch.from_numpy(solve_burgers(start.numpy(), nu, 0.05, 6))[:, :, ::4]
    given, after = truth[:, 3].float(), truth[:, 4].float()
    solved = integrate_burgers(given, torch.full((3,), nu), 0.05, 1.0)
    assert float((solved - after).norm() / (after - given).norm()) < limit


def test_the_integration_is_differentiable_and_keeps_the_mean() -> None:
    field = batch_of("burgers").fields_BTXC[:, 0, :, 0].requires_grad_()
    nu_B = torch.tensor(PARAMETERS["burgers"]).expand(len(field))
    solved = integrate_burgers(field, nu_B, 0.05, 1.0)
    torch.testing.assert_close(solved.mean(-1), field.mean(-1), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(solved.sum(), field)
    torch.testing.assert_close(gradient, torch.ones_like(gradient), atol=1e-4, rtol=0)


def test_spectral_sees_amplitudes_and_not_places() -> None:
    surrogate, batch = of_case("spectral", "navier_stokes")
    moved = batch.fields_BTXC.clone()
    moved[:, 1] = moved[:, 1].roll(3, 1)
    shifted = replace(batch, fields_BTXC=moved)
    here, there = (value_of("spectral", surrogate, each).detach() for each in (batch, shifted))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-6)
    doubled = replace(batch, fields_BTXC=torch.cat([batch.fields_BTXC[:, :1], 2 * batch.fields_BTXC[:, 1:]], 1))
    assert abs(float(value_of("spectral", surrogate, doubled).detach() - here)) > 1e-3


def test_latent_norm_brings_the_rms_to_one() -> None:
    surrogate, batch = of_case("latent_norm", "burgers")

    @torch.no_grad()
    def rms() -> Tensor:
        canonical, *_ = surrogate.normalise(batch.fields_BTXC[:, 0], batch.parameters_BP)
        return surrogate.model.encode_unnormalised(canonical).square().mean(-1).sqrt()

    before = float((rms() - 1).abs().mean())
    descend("latent_norm", surrogate, batch, steps=80, lr=1e-2)
    assert float((rms() - 1).abs().mean()) < 0.3 * before


@pytest.mark.parametrize("equation", ["burgers", "darcy"])
def test_inverse_terms_are_what_they_say(equation: str) -> None:
    """Shared with the forward term or computed alone: the same numbers."""
    surrogate, batch = of_case("inverse_encoding", equation)
    model, steady = surrogate.model, EQUATIONS[equation].steady
    mean = surrogate.frame.mean(batch.fields_BTXC[:, 0])
    moving = surrogate.frame.enter(batch.fields_BTXC[:, :2], mean)
    canonical, features, offset, scale = surrogate.normalise(moving[:, 0], batch.parameters_BP)
    after = model.advance(model.encode(canonical), features)
    if steady:
        solution = (moving[:, 1] - offset) / scale
        encoding = (model.decode(model.encode_solution(solution)) - solution).square().mean()
        decoding = (model.encode_solution(model.decode(after)) - after).square().mean()
    else:
        encoding = (model.decode(model.encode(canonical)) - canonical).square().mean()
        decoding = (model.encode(model.step(canonical, features)) - after).square().mean()
    torch.testing.assert_close(value_of("inverse_encoding", surrogate, batch), encoding)
    torch.testing.assert_close(value_of("inverse_decoding", surrogate, batch), decoding)


def test_a_detached_target_changes_the_gradient_and_not_the_value() -> None:
    surrogate, batch = of_case("inverse_decoding", "burgers")
    stopped = LossesConfig().override({"inverse_decoding.detach_target": True})
    found = []
    for losses in (PLAIN, stopped):
        surrogate.zero_grad()
        value = value_of("inverse_decoding", surrogate, batch, losses)
        value.backward()
        found.append((value.detach(), surrogate.model.operator.trunk.out.weight.grad.clone()))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


def test_latent_terms_cannot_be_lowered_by_shrinking_the_latent() -> None:
    surrogate, batch = of_case("inverse_decoding", "burgers")
    before = value_of("inverse_decoding", surrogate, batch).detach()
    with torch.no_grad():
        surrogate.model.encoder.to_latent.weight *= 0.1
        surrogate.model.encoder.to_latent.bias *= 0.1
    torch.testing.assert_close(value_of("inverse_decoding", surrogate, batch).detach(), before, rtol=1e-3, atol=1e-6)


def of_truth(term: str, surrogate: Surrogate, batch: Batch) -> float:
    """The term of a prediction that is the truth itself."""
    seen: list[Tensor] = []
    compute = TERMS[term]

    def at_truth(prediction: Any) -> Tensor:
        seen.append(compute(replace(prediction, frames_BhXC=prediction.truth_BhXC)))
        return seen[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TERMS, term, at_truth)
        operator_loss(surrogate, batch, PLAIN, steps=1, mode="reencode", weights={term: 1.0})
    return float(seen[0])


# --- unrolling ---


def written_out(surrogate: Surrogate, start: Tensor, parameters: Tensor, steps: int, mode: str) -> Tensor:
    """A rollout in the words of its definition: w' = w + D(A(z)) - D(z), encoded again after every step or never."""
    model, frames, field = surrogate.model, [], start
    canonical, features, offset, scale = surrogate.normalise(field, parameters)
    latent = model.encode(canonical)
    rest = 0 if surrogate.equation.steady else canonical - model.decode(latent)
    for _ in range(steps):
        if mode == "latent":
            latent = model.advance(latent, features)
            field = surrogate.physical(rest + model.decode(latent), offset, scale)
        else:
            canonical, features, offset, scale = surrogate.normalise(field, parameters)
            field = surrogate.physical(model.step(canonical, features), offset, scale)
        frames.append(field)
    return torch.stack(frames, dim=1)


@pytest.mark.parametrize("equation", ["burgers", "navier_stokes", "diffusion_reaction", "darcy"])
@pytest.mark.parametrize("mode", ["latent", "reencode"])
@pytest.mark.parametrize("decoder", [None, POINTS])
def test_a_rollout_is_what_it_is_defined_to_be(equation: str, mode: str, decoder: Any) -> None:
    surrogate = surrogate_of(equation, **({"decoder": decoder} if decoder else {})).eval()
    batch = batch_of(equation)
    for steps in (1,) if EQUATIONS[equation].steady else (1, 3):
        start = batch.fields_BTXC[:, 0]
        expected = written_out(surrogate, start, batch.parameters_BP, steps, mode)
        made = surrogate.unroll(start, batch.parameters_BP, steps, mode)
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def unrolled(
    surrogate: Surrogate, start: Tensor, parameters: Tensor, mode: str, **how: Any
) -> tuple[list[int], Tensor]:
    """Numbers and fields of three steps."""
    made = list(unroll(surrogate, start, parameters, 3, mode, **how))
    return [step.number for step in made], torch.stack([step.field for step in made], dim=1)


@pytest.mark.parametrize("mode", ["latent", "reencode"])
def test_pushforward_keeps_the_frames_and_cuts_the_gradient(mode: str) -> None:
    surrogate, batch = surrogate_of("burgers"), batch_of("burgers")
    start = batch.fields_BTXC[:, 0].clone().requires_grad_()
    steps, whole = unrolled(surrogate, start, batch.parameters_BP, mode)
    few, cut = unrolled(surrogate, start, batch.parameters_BP, mode, pushforward=True)
    assert (steps, few) == ([1, 2, 3], [1, 3])
    assert torch.equal(cut, whole[:, [0, 2]])
    (through_first,) = torch.autograd.grad(cut[:, 0].square().sum(), start, retain_graph=True)
    assert through_first.any()
    (through_last,) = torch.autograd.grad(cut[:, 1].square().sum(), start, allow_unused=True)
    assert through_last is None or not through_last.any()
    weights = surrogate.model.operator.parameters()
    last = unrolled(surrogate, start.detach(), batch.parameters_BP, mode, pushforward=True)[1][:, 1]
    assert any(g is not None and g.any() for g in torch.autograd.grad(last.square().sum(), weights, allow_unused=True))


def test_pushforward_changes_the_loss_and_its_gradient() -> None:
    surrogate, batch = surrogate_of("burgers"), batch_of("burgers")
    pushed = LossesConfig().override({"rollout.pushforward": True})
    values = [operator_loss(surrogate, batch, losses, steps=3, mode="reencode")[1] for losses in (PLAIN, pushed)]
    assert values[0]["forward"] == values[1]["forward"]
    assert values[0]["rollout"] != values[1]["rollout"]


# --- query sampling ---


@pytest.mark.parametrize("kind", ["uniform", "stratified"])
@pytest.mark.parametrize(("cells", "count"), [((32,), 8), ((32,), 7), ((16, 16), 16), ((12, 20), 6)])
def test_a_sampled_error_estimates_the_full_one(kind: str, cells: tuple[int, ...], count: int) -> None:
    """The mean over many draws is the mean over all cells, within four standard errors."""
    queries = QueriesConfig.parse({"kind": kind, "count": count})
    field = torch.randn(cells, generator=torch.Generator().manual_seed(2), dtype=torch.float64).flatten().exp()
    means = torch.stack([field[queries.draw(cells, 0, step)].mean() for step in range(4000)])
    assert abs(float(means.mean() - field.mean())) < 4 * float(means.std()) / 4000**0.5
    assert float(means.std()) > 0


def test_the_sampled_loss_estimates_the_full_one() -> None:
    surrogate, batch = surrogate_of("navier_stokes"), batch_of("navier_stokes")
    squares = LossesConfig.parse({"error": "relative_mse", "queries": {"kind": "stratified", "count": 16}})

    @torch.no_grad()
    def forward(queries_Q: Tensor | None) -> float:
        return operator_loss(surrogate, batch, squares, steps=1, mode="reencode", queries_Q=queries_Q)[1]["forward"]

    drawn = torch.tensor([forward(squares.queries.draw((16, 16), 0, step)) for step in range(300)]).double()
    assert abs(float(drawn.mean()) - forward(None)) < 4 * float(drawn.std()) / 300**0.5


def test_draws_are_pure_and_stratified_ones_are_spread() -> None:
    queries = QueriesConfig(kind="stratified", count=16)
    index = queries.draw((16, 16), 3, 5)
    assert index is not None
    assert torch.equal(index, queries.draw((16, 16), 3, 5))
    assert not torch.equal(index, queries.draw((16, 16), 3, 6))
    blocks = (index // 16 // 4) * 4 + index % 16 // 4
    assert sorted(blocks.tolist()) == list(range(16))
    uniform = QueriesConfig(kind="uniform", count=16).draw((16, 16), 3, 5)
    assert uniform is not None
    assert len(set(uniform.tolist())) == 16
    assert QueriesConfig(kind="uniform", count=256).draw((16, 16), 3, 5) is None
    assert QueriesConfig(kind="all", count=1).draw((16, 16), 3, 5) is None


@pytest.mark.parametrize("mode", ["latent", "reencode"])
@pytest.mark.parametrize("equation", ["navier_stokes", "burgers", "darcy"])
def test_decoding_at_points_equals_gathering(equation: str, mode: str) -> None:
    surrogate, batch = surrogate_of(equation, decoder=POINTS), batch_of(equation)
    steps = 1 if EQUATIONS[equation].steady else 3
    queries_Q = QueriesConfig(kind="uniform", count=20).draw(spec_of(equation).cells, 0, 0)
    # a second encoding needs the whole field, and so does a frame without mean
    exact = {"navier_stokes": mode == "latent", "burgers": False, "darcy": True}[equation]
    assert decodes_at_points(surrogate, steps, mode) == exact
    alone, _ = operator_loss(surrogate, batch, PLAIN, steps=steps, mode=mode, queries_Q=queries_Q)
    # a term of the whole field forces the gathering; its weight is too small to be seen
    _, gathered = operator_loss(
        surrogate, batch, PLAIN, steps=steps, mode=mode, queries_Q=queries_Q, weights={"spectral": 1e-12}
    )
    parts = sum(gathered[name] for name in ("forward", "rollout") if name in gathered)
    assert float(alone.detach()) == pytest.approx(parts, rel=1e-4)

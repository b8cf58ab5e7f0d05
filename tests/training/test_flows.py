"""Flow matching in latent space: the integrator's order, the flow times, the corrections' own laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ups.core.layers import rms_norm
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.inference.surrogate import ModelConfig, Surrogate
from ups.models.corrector import Corrector, Student
from ups.models.encoder import LatentConfig
from ups.models.latent import LatentModel
from ups.models.operator import PdetStack
from ups.models.steady_prior import SteadyPrior
from ups.training.flow_matching import FlowConfig, draw_tau
from ups.training.latents import decoded_target

SPEC = FieldSpec("burgers", (32,), 1, 1.0, 0.05, ("nu",))
LATENT = LatentConfig(tokens=8, dim=4)
CONFIG = PdetStack.Config(depth=1, hidden_dim=8, modes=3)
FEATURES = torch.zeros(3, 2)


def scramble(surrogate: Surrogate) -> Surrogate:
    """Give the zero-initialised layers weights, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in surrogate.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return surrogate


def build_surrogate(**sections: Any) -> Surrogate:
    torch.manual_seed(0)
    small = {"latent": {"tokens": 8, "dim": 4}, "encoder": {"width": 16}, "operator": {"depth": 1, "hidden_dim": 8}}
    return ModelConfig.parse(small | sections).build(SPEC, Normalizer((0.0,), (1.0,)), ((0.01,),))


def smooth_fields() -> Tensor:
    x = (torch.arange(32) + 0.5) / 32
    return torch.stack([torch.sin(2 * torch.pi * (n * x + 0.1 * n)) for n in (1, 2, 3)])[..., None]


def build(kind: type[Corrector] = Corrector) -> Corrector:
    torch.manual_seed(0)
    return kind(CONFIG, SPEC, LATENT, 2)


def latents(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """(noise, base, latent)"""
    torch.manual_seed(1)
    noise = torch.randn(count, 8, 4)
    return noise, rms_norm(torch.randn(count, 8, 4)), rms_norm(torch.randn(count, 8, 4))


class Swinging(Corrector):
    """A velocity field with a known flow: dx/dtau = c(tau) x."""

    def velocity(self, x_BND: Tensor, tau_B: Tensor, base: Tensor, latent: Tensor, features: Tensor) -> Tensor:
        return torch.cos(3 * tau_B)[:, None, None] * x_BND


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_solvers_have_their_order(solver: str, order: int) -> None:
    flow = Swinging(CONFIG, SPEC, LATENT, 2).double()
    noise, base, latent = (x.double() for x in latents())
    exact = noise * torch.exp(torch.sin(torch.tensor(3.0, dtype=torch.float64)) / 3)
    errors = [
        (flow.integrate(noise, base, latent, FEATURES, steps, solver)[:, -1] - exact).abs().max()  # type: ignore[arg-type]
        for steps in (64, 128)
    ]
    # Heun's last step is Euler's: its local error is of second order, and so is the whole
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("kind", [Corrector, Student, SteadyPrior])
def test_an_untrained_flow_corrects_nothing(kind: type[Corrector], solver: str) -> None:
    flow = build(kind)
    noise, base, latent = latents()
    states = flow.integrate(noise, base, latent, FEATURES, 4, solver)  # type: ignore[arg-type]
    assert torch.equal(states[:, 0], noise)
    torch.testing.assert_close(flow.apply_to(base, latent, states[:, -1]), base, atol=1e-5, rtol=1e-5)


def test_the_flow_to_a_known_point_ends_there() -> None:
    flow = build()
    goal = torch.randn(3, 8, 4)
    flow.end_point = lambda *arguments: goal  # type: ignore[method-assign, assignment]
    noise, base, latent = latents()
    for steps in (1, 3):
        states = flow.integrate(noise, base, latent, FEATURES, steps, "euler")
        torch.testing.assert_close(states[:, -1], goal, atol=1e-5, rtol=1e-5)
        # along the straight line, at equal distances
        torch.testing.assert_close(states.diff(dim=1), ((goal - noise) / steps)[:, None].expand(-1, steps, -1, -1))


@pytest.mark.parametrize("kind", [Corrector, SteadyPrior])
def test_applying_the_data_of_a_target_gives_the_target(kind: type[Corrector]) -> None:
    flow = build(kind)
    flow.scale.fill_(0.3)
    _, base, target = latents()
    latent = rms_norm(base + 0.1 * target)
    again = flow.apply_to(base, latent, flow.data_of(base, latent, target))
    torch.testing.assert_close(again, target, atol=1e-5, rtol=1e-4)


def test_residuals_are_measured_by_the_operators_own_change() -> None:
    flow = build()
    _, base, change = latents()
    small, large = (flow.unit(base, base + size * change) for size in (0.01, 1.0))
    torch.testing.assert_close(large, 100 * small, rtol=1e-3, atol=0)


@given(
    sampling=st.sampled_from(["uniform", "beta", "stratified"]),
    low=st.floats(0, 0.4),
    high=st.floats(0.5, 1),
    count=st.integers(1, 64),
    index=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_flow_times_lie_in_their_range_and_repeat(
    sampling: str, low: float, high: float, count: int, index: int
) -> None:
    config = FlowConfig.parse({"tau_sampling": sampling, "tau_min": low, "tau_max": high})
    tau = draw_tau(config, count, 3, index)
    assert low - 1e-6 <= tau.min() <= tau.max() <= high + 1e-6
    assert torch.equal(tau, draw_tau(config, count, 3, index))
    if sampling == "stratified":
        bins = ((tau - low) / (high - low) * count).sort().values
        assert (bins - torch.arange(count)).min() > -1e-3
        assert (bins - torch.arange(count)).max() < 1 + 1e-3


def test_flow_times_have_the_moments_of_their_distribution() -> None:
    def draws(sampling: str) -> Tensor:
        config = FlowConfig.parse({"tau_sampling": sampling})
        return torch.cat([draw_tau(config, 64, 0, index) for index in range(300)])

    for sampling, variance in (("uniform", 1 / 12), ("stratified", 1 / 12), ("beta", 1 / 20)):
        assert draws(sampling).mean() == pytest.approx(0.5, abs=0.01)
        assert draws(sampling).var() == pytest.approx(variance, rel=0.05)


def test_rescaling_does_not_clamp() -> None:
    config = FlowConfig.parse({"tau_sampling": "uniform", "tau_min": 0.2, "tau_max": 0.7})
    tau = torch.cat([draw_tau(config, 64, 0, index) for index in range(50)])
    assert ((tau - 0.2).abs() < 1e-4).float().mean() < 0.01
    assert ((tau - 0.7).abs() < 1e-4).float().mean() < 0.01


def test_the_students_second_evaluation_starts_on_the_line_to_the_first_end() -> None:
    student = build(Student)
    assert isinstance(student, Student)
    seen: list[tuple[float, Tensor]] = []

    def end_point(x: Tensor, tau: Tensor, *rest: Tensor) -> Tensor:
        seen.append((float(tau[0]), x))
        return torch.full_like(x, 2.0)

    student.end_point = end_point  # type: ignore[method-assign, assignment]
    noise, base, latent = latents()
    end = student.few_steps(noise, base, latent, FEATURES, 2)
    assert [tau for tau, _ in seen] == [0.0, 0.5]
    torch.testing.assert_close(seen[1][1], (noise + 2.0) / 2)
    assert (end == 2.0).all()


@pytest.mark.parametrize("decoder", [{"kind": "grid", "width": 16}, {"kind": "anypoint", "width": 16}], ids=str)
def test_the_decoded_target_is_the_nearest_latent_that_decodes_to_the_truth(decoder: dict[str, Any]) -> None:
    surrogate = scramble(build_surrogate(decoder=decoder))
    model = surrogate.model
    assert isinstance(model, LatentModel)
    with torch.no_grad():
        base = model.encode(smooth_fields())
        elsewhere = rms_norm(base + 0.05 * torch.randn_like(base))
        wanted = model.decode(elsewhere)
        target = decoded_target(model, base, wanted)
        before, after = ((model.decode(each) - wanted).square().mean().sqrt() for each in (base, target))
    assert after < 0.05 * before
    torch.testing.assert_close(target, rms_norm(target), atol=1e-5, rtol=1e-5)
    # nothing is changed that does not show
    assert (target - base).norm() < 1.001 * (elsewhere - base).norm()
    # and what is right already stays
    torch.testing.assert_close(decoded_target(model, base, model.decode(base)), base, atol=1e-4, rtol=1e-3)

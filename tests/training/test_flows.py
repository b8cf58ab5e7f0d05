"""Flow matching in latent space: the integrator's order, the flow times, the corrections' own laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ups.config import RunConfig
from ups.core.layers import rms_norm
from ups.core.types import FieldSpec
from ups.data.generators import generate
from ups.data.normalization import Normalizer
from ups.data.task import TaskConfig, load_task
from ups.inference.build import ModelConfig
from ups.inference.surrogate import Surrogate
from ups.models.corrector import Corrector, Student
from ups.models.encoder import LatentConfig
from ups.models.latent import LatentModel
from ups.models.operator import PdetStack
from ups.models.steady_prior import SteadyPrior
from ups.run import build_run_surrogate
from ups.training.batches import WindowSampler
from ups.training.flow_matching import FlowConfig, PairSampler, draw_tau
from ups.training.latents import Pairs, decoded_target, open_pairs, write_pairs

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
    torch.testing.assert_close(flow.apply_to(base, states[:, -1]), base, atol=1e-5, rtol=1e-5)


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
    again = flow.apply_to(base, flow.data_of(base, target))
    torch.testing.assert_close(again, target, atol=1e-5, rtol=1e-4)


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


def pairs(count: int = 640) -> Pairs:
    """Pairs that tell their row."""
    number = np.arange(count, dtype=np.float32)
    return Pairs(*(np.tile(number[:, None, None], (1, 2, 2)) for _ in range(3)), np.tile(number[:, None], (1, 2)))


def test_an_epoch_takes_every_pair_once_and_keeps_the_parts_together() -> None:
    sampler = PairSampler(pairs(), 16, seed=0)
    device = torch.device("cpu")
    seen = []
    for index in range(sampler.batches_per_epoch):
        latent, base, target, features = sampler.batch(index, device)
        assert torch.equal(latent, base)
        assert torch.equal(latent, target)
        assert torch.equal(latent[:, 0], features)
        seen.extend(features[:, 0].tolist())
    assert sorted(seen) == list(range(640))
    again = PairSampler(pairs(), 16, seed=0)
    assert torch.equal(again.batch(45, device)[0], sampler.batch(45, device)[0])
    assert not torch.equal(sampler.batch(0, device)[0], sampler.batch(40, device)[0])


@pytest.mark.parametrize("sampling", ["uniform", "beta", "stratified"])
def test_flow_times_know_nothing_of_their_pairs(sampling: str) -> None:
    """Stratified times go up within a batch: rows must not."""
    config = FlowConfig.parse({"tau_sampling": sampling})
    sampler = PairSampler(pairs(), 16, seed=0)
    rows = torch.stack([sampler.batch(index, torch.device("cpu"))[3][:, 0] for index in range(200)])
    times = torch.stack([draw_tau(config, 16, 0, index) for index in range(200)])
    assert abs(torch.corrcoef(torch.stack([rows.flatten(), times.flatten()]))[0, 1]) < 0.05


@pytest.mark.parametrize("inference", [{"rollout": "latent"}, {}, {"reencode_every": 2}], ids=str)
def test_pairs_are_met_on_the_deployed_rollout(tiny: dict[str, Any], tmp_path: Path, inference: dict[str, Any]) -> None:
    config = RunConfig.parse({**tiny, "inference": inference, "symmetry": "none"})
    task = load_task(config.task)
    surrogate = scramble(build_run_surrogate(config, task)).eval()
    what = {"windows_per_trajectory": 2, "horizon": 2, "seed": 5, "augment": False, "encoded": False}
    write_pairs(tmp_path, surrogate, task, **what)  # type: ignore[arg-type]
    met = open_pairs(tmp_path)
    assert len(met) == 32 * 3
    model = surrogate.model
    assert isinstance(model, LatentModel)
    batch = WindowSampler.of_task(task, 32, 2, 5, False).batch(0, 4)
    frames = surrogate.unroll(batch.fields_BTXC[:, 0], batch.parameters_BP, 3)
    with torch.no_grad():
        # where the operator starts after two steps of the deployed rollout
        canonical, features, _, _ = surrogate.normalise(frames[:, 1], batch.parameters_BP)
        if not inference:
            torch.testing.assert_close(torch.from_numpy(met.latent[64:].copy()), model.encode(canonical))
        else:
            first = torch.from_numpy(met.base[32:64].copy())
            reencodes = inference.get("reencode_every") == 2
            expected = model.encode(canonical) if reencodes else first
            torch.testing.assert_close(torch.from_numpy(met.latent[64:].copy()), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.from_numpy(met.features[:32].copy()), features, atol=1, rtol=1)


def test_windows_between_walls_are_reflected_only_where_that_is_exact(tmp_path: Path) -> None:
    """A strided grid between walls is not its own mirror image; the two axes may still be exchanged."""
    file = generate("darcy", tmp_path / "darcy.h5", trajectories=6, cells=16, seed=1)
    task = {"equation": "darcy", "files": [str(file)], "train": 4, "validation": 1, "test": 1}
    for stride, reflects in ((1, True), (2, False)):
        loaded = load_task(TaskConfig.parse({**task, "space_stride": stride}))
        moved, plain = (WindowSampler.of_task(loaded, 4, 1, 0, augment) for augment in (True, False))
        known = True
        for index in range(4):
            for new, old in zip(moved.batch(index, 2).fields_BTXC, plain.batch(index, 2).fields_BTXC, strict=True):
                known &= torch.equal(new, old) or torch.equal(new, old.transpose(1, 2))
        assert known != reflects

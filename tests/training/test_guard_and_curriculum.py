"""The gradient guard's limits, and the curricula's shapes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ups.training.curriculum import RolloutLossConfig, TermConfig
from ups.training.guard import Exploded, GradientGuard, GuardConfig, clip_gradients
from ups.training.optim import EmaConfig, ScheduleConfig


def model_with_gradient(size: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    last = model[1].weight.grad
    assert last is not None
    last.fill_(size / math.sqrt(last.numel()))
    return model


def guard(**limits: float) -> GradientGuard:
    return GradientGuard(GuardConfig.parse(limits), "operator")


def test_norm_is_measured_and_admitted() -> None:
    admitted, norm = guard().admits(model_with_gradient(3.0), 1)
    assert admitted
    assert norm == pytest.approx(3.0, rel=1e-5)


def test_one_warning_then_a_count() -> None:
    watch = guard()
    for step in range(5):
        assert watch.admits(model_with_gradient(200.0), step)[0]
    assert (len(watch.warnings), watch.warned, watch.skipped) == (1, 5, 0)


@pytest.mark.parametrize("size", [2e3, math.nan, math.inf])
def test_bad_updates_are_skipped_until_too_many_in_a_row(size: float) -> None:
    watch = guard(max_skips=3, explode_norm=1e30)
    if math.isinf(size):
        with pytest.raises(Exploded, match="gradient norm inf at step 1 of operator"):
            watch.admits(model_with_gradient(size), 1)
        return
    assert not watch.admits(model_with_gradient(size), 1)[0]
    assert watch.admits(model_with_gradient(1.0), 2)[0]
    for step in (3, 4):
        assert not watch.admits(model_with_gradient(size), step)[0]
    with pytest.raises(Exploded, match=r"3 updates in a row refused; gradient norm .* at step 5 of operator"):
        watch.admits(model_with_gradient(size), 5)
    assert watch.skipped == 4


def test_explosion_names_step_norm_and_group() -> None:
    with pytest.raises(Exploded, match=r"gradient norm 1e\+07 at step 7 of operator, largest in 1\.weight"):
        guard().admits(model_with_gradient(1e7), 7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_not_finite_explodes(loss: float) -> None:
    with pytest.raises(Exploded, match=r"training loss (nan|inf) at step 4 of operator"):
        guard().check_loss(loss, 4)


def test_limits_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="warn_norm <= skip_norm <= explode_norm"):
        GuardConfig.parse({"skip_norm": 1e7})


def test_clipping_by_norm_and_by_parameter() -> None:
    model = model_with_gradient(10.0)
    assert model[0].weight.grad is not None
    model[0].weight.grad.fill_(0.1)
    before = model[0].weight.grad.clone()
    clip_gradients(model.parameters(), 1.0, per_parameter=True)
    torch.testing.assert_close(model[0].weight.grad, before)
    assert float(model[1].weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    clip_gradients(model.parameters(), 0.5, per_parameter=False)
    total = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("size", [0.3, 1.0, 40.0])
def test_clipping_equals_torchs_own(size: float) -> None:
    """A norm that is known already gives the same gradients as measuring it again."""
    ours, theirs = model_with_gradient(size), model_with_gradient(size)
    _, norm = guard().admits(ours, 1)
    clip_gradients(ours.parameters(), 1.0, per_parameter=False, norm=norm)
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


@given(
    weight=st.floats(0, 10),
    top=st.none() | st.floats(0, 1),
    warmup=st.integers(0, 30) | st.floats(0, 0.99),
    epochs=st.integers(1, 50),
    ramp=st.sampled_from(["linear", "cosine"]),
)
def test_inverse_weight_is_zero_then_rises_to_its_cap(
    weight: float, top: float | None, warmup: float, epochs: int, ramp: str
) -> None:
    config = TermConfig.parse({"weight": weight, "warmup": warmup, "max_weight": top, "ramp": ramp})
    full = weight if top is None else min(weight, top)
    start = warmup * epochs if warmup < 1 else warmup
    values = [config.at(epochs * k / 40, epochs) for k in range(41)]
    assert all(value == 0 for k, value in enumerate(values) if epochs * k / 40 < start)
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))
    assert config.at(2 * start, epochs) == pytest.approx(full)
    assert max(values) <= full + 1e-12


def test_linear_inverse_weight_is_the_formula() -> None:
    config = TermConfig(weight=0.4, warmup=10, max_weight=0.05)
    assert [config.at(e, 40) for e in (0, 9.9, 10, 11, 12, 20, 39)] == pytest.approx([0, 0, 0, 0.04, 0.05, 0.05, 0.05])


def test_a_term_is_applied_to_every_nth_batch() -> None:
    rare = TermConfig(weight=0.5, every=3)
    assert [rare.of_batch(index, 1.0, 4) for index in range(5)] == [0.5, 0, 0, 0.5, 0]
    late = TermConfig(weight=0.5, every=2, warmup=0.5)
    assert [late.of_batch(index, 1.0, 4) for index in range(3)] == [0, 0, 0]


@given(horizon=st.integers(1, 12), warmup=st.floats(0, 0.9), step=st.integers(0, 1000))
def test_horizon_grows_from_one_to_its_end(horizon: int, warmup: float, step: int) -> None:
    config = RolloutLossConfig(horizon=horizon, warmup=warmup)
    steps = [config.steps_at(k / 50, step) for k in range(50)]
    assert all(1 <= a <= b <= horizon for a, b in itertools.pairwise(steps))
    assert steps[0] == 1 or warmup == 0
    assert config.steps_at(1.0, step) == horizon


def test_rollout_term_can_be_off_or_rare() -> None:
    assert RolloutLossConfig(weight=0, horizon=5, warmup=0).steps_at(1.0, 3) == 1
    rare = RolloutLossConfig(horizon=3, warmup=0, every=4)
    assert [rare.steps_at(1.0, step) for step in range(8)] == [3, 1, 1, 1, 3, 1, 1, 1]


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_schedule_rises_and_ends(kind: str) -> None:
    schedule = ScheduleConfig.parse({"kind": kind, "warmup": 0.1, "final": 0.2})
    assert schedule.factor(0) == 0
    assert schedule.factor(0.05) == pytest.approx(0.5)
    assert schedule.factor(0.1) == pytest.approx(1)
    assert schedule.factor(1.0) == pytest.approx(0.2 if kind == "cosine" else 1.0)


def test_ema_forgets_the_start() -> None:
    ema = EmaConfig(decay=0.999)
    assert ema.at(0) == pytest.approx(0.1)
    assert ema.at(10**6) == 0.999

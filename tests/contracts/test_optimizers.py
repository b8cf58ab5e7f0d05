"""What every optimizer must do, whatever it is: one suite over all of them; then what Muon takes and leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes_losses import batch_of, surrogate_of
from torch import Tensor, nn

from ups.core.checkpoint import Checkpoint, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from ups.core.errors import ConfigError
from ups.inference.surrogate import Surrogate
from ups.training.losses import LossesConfig, operator_loss
from ups.training.optim import OptimizerConfig, Together, hidden_matrices

every_optimizer = pytest.mark.parametrize("name", ["adamw", "muon"])
LOSSES = LossesConfig()


def config_of(name: str, **changes: float) -> OptimizerConfig:
    return OptimizerConfig.parse({"name": name, "lr": 3e-3, **changes})


def descend(surrogate: Surrogate, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    batch = batch_of("burgers")
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, _ = operator_loss(surrogate, batch, LOSSES, steps=2, mode="reencode", weights={"inverse_encoding": 0.1})
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values


@every_optimizer
def test_each_overfits_one_batch(name: str) -> None:
    surrogate = surrogate_of("burgers")
    values = descend(surrogate, config_of(name).build(surrogate), 60)
    assert values[-1] < 0.4 * values[0]


@every_optimizer
def test_each_moves_every_parameter(name: str) -> None:
    surrogate = surrogate_of("burgers")
    before = {key: value.detach().clone() for key, value in surrogate.named_parameters()}
    descend(surrogate, config_of(name).build(surrogate), 2)
    still = [key for key, value in surrogate.named_parameters() if torch.equal(before[key], value)]
    # one bias moves queries and keys alike, or the whole field: no gradient reaches it
    without = [key for key, value in surrogate.named_parameters() if value.grad is None or not value.grad.any()]
    assert set(still) <= set(without)
    assert len(still) < 3


@every_optimizer
def test_each_is_saved_and_goes_on_exactly(name: str, tmp_path: Path) -> None:
    whole = surrogate_of("burgers")
    optimizer = config_of(name).build(whole)
    descend(whole, optimizer, 3)
    part = surrogate_of("burgers", perturbed=0.5)
    part.load_state_dict(whole.state_dict())
    save_checkpoint(tmp_path / "state", Checkpoint(optimizer_tensors(optimizer), {}))
    again = config_of(name).build(part)
    # a state of its own that must be forgotten
    for parameter in part.parameters():
        parameter.grad = torch.ones_like(parameter)
    again.step()
    part.load_state_dict(whole.state_dict())
    restore_optimizer(again, load_checkpoint(tmp_path / "state").tensors)
    assert descend(part, again, 4) == descend(whole, optimizer, 4)
    for ours, theirs in zip(part.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@every_optimizer
def test_rates_of_all_groups_follow_the_schedule(name: str) -> None:
    """A rate of 0 in every group stops every weight, also after a restore."""
    surrogate = surrogate_of("burgers")
    optimizer = config_of(name, weight_decay=0.1).build(surrogate)
    descend(surrogate, optimizer, 1)
    restore_optimizer(optimizer, optimizer_tensors(optimizer))
    before = [parameter.detach().clone() for parameter in surrogate.parameters()]
    for group in optimizer.param_groups:
        assert group["initial_lr"] == 3e-3
        group["lr"] = 0.0 * group["initial_lr"]
    descend(surrogate, optimizer, 1)
    assert all(torch.equal(old, new) for old, new in zip(before, surrogate.parameters(), strict=True))


@every_optimizer
def test_decay_shrinks_matrices_and_leaves_biases(name: str) -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = config_of(name, lr=0.1, weight_decay=0.5).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), before[key] * (0.95 if value.ndim == 2 else 1.0))


@every_optimizer
def test_frozen_parameters_are_left_alone(name: str) -> None:
    surrogate = surrogate_of("burgers")
    surrogate.model.encoder.requires_grad_(False)
    optimizer = config_of(name).build(surrogate)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in surrogate.model.encoder.parameters()}
    assert held == {id(p) for p in surrogate.parameters() if p.requires_grad}


# --- Muon ---


def test_muon_takes_hidden_matrices_alone() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 24), nn.Linear(24, 2), nn.Linear(24, 32), nn.Linear(32, 16))
    model.append(nn.Conv1d(16, 16, 3))
    model.append(nn.Embedding(9, 16))
    taken = hidden_matrices(model)
    # neither the first, nor the last, nor the one that writes two numbers
    assert [id(weight) for weight in taken] == [id(model[1].weight), id(model[3].weight)]
    optimizer = config_of("muon").build(model)
    assert isinstance(optimizer, Together)
    muon = optimizer.parts[0]
    assert [id(p) for group in muon.param_groups for p in group["params"]] == [id(weight) for weight in taken]
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_muons_update_is_orthogonal_and_as_large_as_adamws() -> None:
    """The singular values of the first update are alike, whatever those of the gradient are."""
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(3)))
    before = model[1].weight.detach().clone()
    optimizer = config_of("muon", lr=0.01, weight_decay=0.0).build(model)
    draw = torch.Generator().manual_seed(0)
    steep: Tensor = torch.randn(32, 32, generator=draw) * torch.logspace(0, -1, 32)
    for parameter in model.parameters():
        parameter.grad = steep.clone()
    optimizer.step()
    update = model[1].weight.detach() - before
    values = torch.linalg.svdvals(update)
    assert float(values.max() / values.min()) < 4
    assert float(torch.linalg.svdvals(steep).max() / torch.linalg.svdvals(steep).min()) > 40
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)


def test_muon_without_a_hidden_matrix_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.name: muon needs a hidden matrix.*use adamw"):
        config_of("muon").build(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)))

"""Laws of the field-space peers, FNO and U-Net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ups.baselines.fno import Fno
from ups.baselines.unet import Unet
from ups.core.errors import ConfigError, UserError
from ups.core.types import FieldSpec

LINE = FieldSpec("burgers", (32,), 1, 1.0, 0.05, ("nu",))
TORUS = FieldSpec("navier_stokes", (16, 16), 3, 1.0, 0.1, ("nu",))
BOX = FieldSpec("diffusion_reaction", (16, 16), 2, 1.0, 0.1, ("du", "dv", "k"), "neumann")
STEADY = FieldSpec("darcy", (16, 16), 1, 1.0, 1.0, ("beta",), "dirichlet")
SPECS = {spec.equation: spec for spec in (LINE, TORUS, BOX, STEADY)}


def build(kind: str, spec: FieldSpec, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    config: Any = Fno.Config(width=6, modes=4, depth=2) if kind == "fno" else Unet.Config(width=4, levels=2)
    return config.model_copy(update=options).build(spec, 2)


def scramble(part: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return part


def batch(spec: FieldSpec) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(2, *spec.cells, spec.channels), torch.randn(2, 2)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_untrained_unet_predicts_no_change_or_for_a_steady_task_nothing(spec: FieldSpec) -> None:
    field, features = batch(spec)
    expected = torch.zeros_like(field) if spec.equation == "darcy" else field
    assert torch.equal(build("unet", spec).step(field, features), expected)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", ["fno", "unet"])
def test_the_condition_reaches_the_prediction(kind: str, spec: FieldSpec) -> None:
    model = scramble(build(kind, spec))
    field, features = batch(spec)
    after = model.step(field, features)
    assert after.shape == field.shape
    assert (model.step(field, features + 1) - after).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "spec", "shift"),
    [("unet", LINE, (4,)), ("unet", TORUS, (8, 4)), ("fno", LINE, (3,)), ("fno", TORUS, (5, 1))],
)
def test_periodic_peers_commute_with_shifts(kind: str, spec: FieldSpec, shift: tuple[int, ...]) -> None:
    """The FNO without coordinates by any cell, the U-Net by a cell of its coarsest level."""
    model = scramble(build(kind, spec, **({"position": False} if kind == "fno" else {})))
    field, features = batch(spec)
    axes = tuple(range(1, spec.axes + 1))
    moved = model.step(field.roll(shift, axes), features)
    torch.testing.assert_close(moved, model.step(field, features).roll(shift, axes), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["fno", "unet"])
@pytest.mark.parametrize("spec", [BOX, STEADY], ids=["neumann", "dirichlet"])
def test_walls_do_not_wrap(kind: str, spec: FieldSpec) -> None:
    """The same field elsewhere between the walls is another problem."""
    options: dict[str, Any] = {"position": False, "modes": 16} if kind == "fno" else {"levels": 1}
    model = scramble(build(kind, spec, **options))
    field, features = batch(spec)
    moved = field.roll(4, 1)
    assert (model.step(moved, features) - model.step(field, features).roll(4, 1)).abs().max() > 1e-3


def test_a_steady_fno_predicts_the_solution_itself() -> None:
    model = build("fno", STEADY)
    field, features = batch(STEADY)
    with torch.no_grad():
        model.project[-1].weight.zero_()
        model.project[-1].bias.fill_(2.0)
    torch.testing.assert_close(model.step(field, features), torch.full_like(field, 2.0))


def test_a_unet_runs_on_other_grids_that_can_be_halved() -> None:
    model = scramble(build("unet", LINE))
    assert model.step(torch.randn(2, 64, 1), torch.randn(2, 2)).shape == (2, 64, 1)
    with pytest.raises(UserError, match="multiple of 4 along each axis, got 30"):
        model.step(torch.randn(2, 30, 1), torch.randn(2, 2))
    with pytest.raises(ConfigError, match=r"baseline\.levels: .* got 32 and 6"):
        build("unet", LINE, levels=6)

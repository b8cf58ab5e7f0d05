"""Laws of the latent operators: the identity before training, equivariance, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from ups.core.blocks import ConditionedBlock, DropPath, FusedBlock
from ups.core.errors import ConfigError
from ups.core.layers import rms_norm
from ups.core.physics import Boundary
from ups.models.encoder import LatentConfig
from ups.models.operator import Operator, PdetStack, PdetUnet

LATENT = LatentConfig(tokens=16, dim=6)
NARROW: dict[str, Any] = {"hidden_dim": 8, "num_heads": 2, "modes": 3, "kernel": 3}
KINDS = {
    "stack": {"kind": "pdet_stack", "depth": 2},
    "windows": {"kind": "pdet_stack", "depth": 2, "mixer": "attention", "window": 2},
    "groups": {"kind": "pdet_stack", "depth": 2, "mixer": "hybrid", "group_size": 4, "block": "serial"},
    "unet": {"kind": "pdet_unet", "depths": [1, 1, 1]},
    "unet5": {"kind": "pdet_unet", "depths": [1, 0, 1, 1, 2], "mixer": "spectral", "block": "serial"},
}


def config_of(**options: Any) -> PdetStack.Config | PdetUnet.Config:
    return TypeAdapter(Operator).validate_python(NARROW | options)


def scramble(part: nn.Module) -> nn.Module:
    """Give the zero-initialised layers weights, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return part


def random_latent(tokens: int = 16) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return rms_norm(torch.randn(3, tokens, 6)), torch.randn(3, 2)


@pytest.mark.parametrize("grid", [(16,), (4, 4)], ids=str)
@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_operator_is_the_identity_and_a_trained_one_is_not(
    kind: str, boundary: Boundary, grid: tuple[int, ...]
) -> None:
    operator = config_of(**KINDS[kind]).build(LATENT, 2, grid, boundary)
    latent, features = random_latent()
    torch.testing.assert_close(operator(latent, features), latent, atol=1e-5, rtol=1e-5)
    trained = scramble(operator)(latent, features)
    assert (trained - latent).abs().max() > 0.05
    torch.testing.assert_close(rms_norm(trained), trained, atol=1e-4, rtol=1e-4)
    assert (operator(latent, features + 1) - trained).abs().max() > 1e-3


@pytest.mark.parametrize("grid", [(16,), (4, 4)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trunk_maps_other_widths_and_starts_at_zero(kind: str, grid: tuple[int, ...]) -> None:
    trunk = config_of(**KINDS[kind]).build_trunk(9, 5, 3, grid, "dirichlet")
    x, features = torch.randn(2, 16, 9), torch.randn(2, 3)
    assert torch.equal(trunk(x, features), torch.zeros(2, 16, 5))
    assert scramble(trunk)(x, features).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("kind", "grid", "shift"),
    [
        ("stack", (16,), (3,)),
        ("stack", (4, 4), (1, 2)),
        ("groups", (4, 4), (3, 1)),
        # shifted windows: by a whole window
        ("windows", (4, 4), (2, 2)),
        # merged tokens: by one of the coarsest level
        ("unet", (16,), (2,)),
        ("unet", (4, 4), (2, 0)),
        ("unet5", (16,), (4,)),
    ],
)
def test_periodic_operators_commute_with_shifts(kind: str, grid: tuple[int, ...], shift: tuple[int, ...]) -> None:
    operator = scramble(config_of(**KINDS[kind]).build(LATENT, 2, grid))
    latent, features = random_latent()

    def moved(x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(1, grid).roll(shift, tuple(range(1, len(grid) + 1))).flatten(1, -2)

    torch.testing.assert_close(operator(moved(latent), features), moved(operator(latent, features)), atol=1e-4, rtol=0)


def test_between_walls_an_operator_knows_where_a_token_is() -> None:
    """Attention alone knows distances; equal tokens differ by their distance to the walls."""
    options = {"depth": 1, "mixer": "attention"}
    equal, features = torch.ones(1, 16, 6), torch.randn(1, 2)
    for boundary, differ in (("periodic", False), ("neumann", True)):
        after = scramble(config_of(**options).build(LATENT, 2, (4, 4), boundary))(equal, features)  # type: ignore[arg-type]
        assert bool(after.std(1).max() > 1e-2) == differ


def test_drop_path_rises_linearly_with_depth() -> None:
    def rates(**options: Any) -> list[float]:
        trunk = config_of(drop_path=0.4, **options).build_trunk(6, 6, 2, (16,), "periodic")
        blocks = [part for part in trunk.modules() if isinstance(part, (FusedBlock, ConditionedBlock))]
        return [block.drop.rate for block in blocks]

    assert rates(depth=4) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates(**KINDS["unet5"]) == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4])


def test_drop_path_acts_in_training_alone() -> None:
    operator = scramble(config_of(depth=2, drop_path=0.5).build(LATENT, 2, (16,)))
    latent, features = random_latent()
    latent, features = latent[:1].expand(40, -1, -1), features[:1].expand(40, -1)
    assert operator(latent, features).std(0).max() > 1e-3
    evaluated = operator.eval()(latent, features)
    assert evaluated.std(0).max() < 1e-6
    assert sum(isinstance(part, DropPath) for part in operator.modules()) == 2


def test_the_modes_that_a_grid_does_not_resolve_have_no_weights() -> None:
    few, many = (
        sum(each.numel() for each in config_of(modes=modes).build(LATENT, 2, (4, 4)).parameters()) for modes in (3, 64)
    )
    assert few == many


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "attention", "num_heads": 3}, "hidden_dim must be divisible by num_heads, got 8 and 3"),
        ({"mixer": "attention", "group_size": 3}, "group_size must divide hidden_dim and be a multiple of num_heads"),
        (
            {"mixer": "attention", "hidden_dim": 96, "num_heads": 6, "group_size": 16},
            "got 16 with hidden_dim 96 and num_heads 6; try 6 or 12 or 24",
        ),
        ({"mixer": "conv", "group_size": 4}, "group_size is read by the mixers attention and hybrid, got conv"),
        ({"mixer": "spectral", "window": 4}, "window is read by the mixers attention and hybrid, got spectral"),
        ({"kernel": 4}, "kernel must be odd to stay centred, got 4; try 3 or 5"),
        ({"kind": "pdet_unet", "depths": [1, 1]}, "depths must be an odd number"),
        ({"kind": "pdet_unet", "depths": [0, 0, 0]}, "at least one block"),
    ],
)
def test_refusals_of_a_config(options: dict[str, Any], message: str) -> None:
    kinds: dict[str, Any] = {"pdet_stack": PdetStack, "pdet_unet": PdetUnet}
    with pytest.raises(ConfigError, match=message):
        kinds[options.get("kind", "pdet_stack")].Config.parse(NARROW | options)


@pytest.mark.parametrize(
    ("options", "grid", "message"),
    [
        ({"mixer": "attention", "window": 3}, (4, 4), r"pdet_stack\.window: .* got 3 for 4 x 4 tokens; try 2 or null"),
        (KINDS["unet5"], (2, 8), r"pdet_unet\.depths: 2 levels down .* got 2 x 8; choose at most 3 depths"),
        (KINDS["unet"], (5,), r"pdet_unet\.depths: 1 levels down .* got 5; choose at most 1 depths"),
    ],
)
def test_refusals_of_a_token_grid(options: dict[str, Any], grid: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**options).build(LATENT, 2, grid)


def test_the_shipped_sizes_build() -> None:
    golden = PdetUnet.Config(hidden_dim=96, depths=(1, 1, 1), num_heads=6, group_size=12)
    operator = golden.build(LatentConfig(tokens=32, dim=16), 2, (32,))
    attention = next(part for part in operator.modules() if hasattr(part, "num_heads"))
    assert attention.num_heads == 48  # 8 groups with 6 heads of width 2 each
    latent = torch.randn(2, 32, 16)
    assert operator(latent, torch.randn(2, 2)).shape == latent.shape
    for tokens, dim, hidden, depth in ((256, 192, 384, 4), (512, 384, 768, 8)):
        config = PdetStack.Config(
            mixer="attention", hidden_dim=hidden, depth=depth, num_heads=6, drop_path=0.1, block="serial"
        )
        with torch.device("meta"):
            large = config.build(LatentConfig(tokens=tokens, dim=dim), 2, (tokens,))
        latent = torch.empty(2, tokens, dim, device="meta")
        assert large(latent, torch.empty(2, 2, device="meta")).shape == latent.shape

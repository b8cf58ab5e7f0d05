"""Laws of the layers: equivariance, boundaries, what sees what, and that a fast path equals its slow reference."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ups.core.blocks import ConditionedBlock, DropPath, FusedBlock
from ups.core.layers import GridConv, absolute_features, grid_centres, merge, pad, split
from ups.core.mixers import Mixer, SelfAttention, build_mixer, rotate
from ups.core.physics import Boundary
from ups.core.spectral import SpectralProduct

MIXERS = get_args(Mixer)
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)


def mixer_of(kind: str, axes: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_mixer(kind, 8, 2, 3, 4, axes=axes, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize(("grid", "shift"), [((12,), (5,)), ((6, 8), (1, 3)), ((5, 7), (2, 6))])
def test_mixers_commute_with_shifts_of_tokens_and_do_mix(
    mixer: str, grid: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    layer, axes = mixer_of(mixer, len(grid)), tuple(range(1, len(grid) + 1))
    x = torch.randn(2, *grid, 8)
    torch.testing.assert_close(layer(x.roll(shift, axes)), layer(x).roll(shift, axes), atol=1e-5, rtol=1e-4)
    moved = x.clone()
    moved[(slice(None), *(0 for _ in grid))] += 1
    change = (layer(moved) - layer(x)).abs()
    assert change.select(1, 1).max() > 1e-4
    assert change.select(-2, 1).max() > 1e-4


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_between_walls_nothing_wraps(mixer: str, boundary: Boundary) -> None:
    """The reaction to one token depends on where the walls are."""
    layer, x = mixer_of(mixer, 2, boundary=boundary), torch.randn(2, 6, 6, 8)
    for axis in (1, 2):
        assert (layer(x.roll(2, axis)) - layer(x).roll(2, axis)).abs().max() > 1e-3


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("grid", [(7,), (6, 5)])
def test_convolution_equals_torch_with_explicit_padding(boundary: Boundary, kernel: int, grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = GridConv(2, 3, kernel, len(grid), boundary), torch.randn(2, *grid, 2)
    mode = {"periodic": "circular", "neumann": "replicate", "dirichlet": "zeros"}[boundary]
    kind: Any = nn.Conv1d if len(grid) == 1 else nn.Conv2d
    other = kind(2, 3, kernel, padding=kernel // 2, padding_mode=mode)
    other.load_state_dict(layer.conv.state_dict())
    torch.testing.assert_close(layer(x), other(x.movedim(-1, 1)).movedim(1, -1), atol=1e-5, rtol=1e-4)


@given(tokens=st.integers(1, 9), kernel=st.sampled_from([1, 3, 5, 11]))
@settings(max_examples=25, deadline=None)
def test_circular_conv_equals_a_sum_over_the_wrapped_axis(tokens: int, kernel: int) -> None:
    torch.manual_seed(0)
    layer, x = GridConv(2, 3, kernel), torch.randn(1, tokens, 2)
    weight = layer.conv.weight
    expected = (
        sum(x.roll(kernel // 2 - offset, 1) @ weight[:, :, offset].T for offset in range(kernel)) + layer.conv.bias
    )
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_spectral_product_equals_its_fft_form() -> None:
    torch.manual_seed(0)
    for tokens, modes, groups in ((16, 5, 2), (16, 9, 1), (15, 8, 1), (16, 40, 4)):
        layer, x = SpectralProduct(8, modes, groups), torch.randn(3, tokens, 8)
        kept = min(modes, tokens // 2 + 1)
        spectrum = torch.fft.rfft(x, dim=1)[:, :kept].unflatten(-1, (groups, -1))
        weight = torch.complex(layer.weight[:kept, 0], layer.weight[:kept, 1])
        product = torch.zeros(3, tokens // 2 + 1, 8, dtype=torch.complex64)
        product[:, :kept] = torch.einsum("bmgi,mgio->bmgo", spectrum, weight).flatten(2)
        torch.testing.assert_close(layer(x), torch.fft.irfft(product, n=tokens, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("grid", "modes", "groups"), [((8, 6), 3, 1), ((7, 9), 4, 2), ((8, 8), 12, 1), ((4, 16), (2, 5), 1)]
)
def test_spectral_product_of_two_axes_equals_its_fft_form(
    grid: tuple[int, int], modes: int | tuple[int, int], groups: int
) -> None:
    torch.manual_seed(0)
    layer, x = SpectralProduct(4, modes, groups, axes=2), torch.randn(3, *grid, 4)
    first = modes if isinstance(modes, int) else modes[0]
    second = modes if isinstance(modes, int) else modes[1]
    spectrum = torch.fft.rfft2(x, dim=(1, 2)).unflatten(-1, (groups, -1))
    product = torch.zeros_like(spectrum)
    for k in range(-min(first - 1, (grid[0] - 1) // 2), min(first - 1, (grid[0] - 1) // 2) + 1):
        for m in range(min(second, grid[1] // 2 + 1)):
            real, imaginary = layer.weight[k + first - 1, m]
            product[:, k, m] = torch.einsum("bgi,gio->bgo", spectrum[:, k, m], torch.complex(real, imaginary))
    torch.testing.assert_close(layer(x), torch.fft.irfft2(product.flatten(-2), grid, (1, 2)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
@pytest.mark.parametrize("grid", [(9,), (4, 6)])
def test_spectral_product_between_walls_is_the_periodic_one_of_the_continued_field(
    boundary: Boundary, grid: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = SpectralProduct(4, 4, axes=len(grid), boundary=boundary)
    periodic = SpectralProduct(4, 4, axes=len(grid))
    periodic.load_state_dict(layer.state_dict())
    x = continued = torch.randn(2, *grid, 4)
    for axis in range(1, len(grid) + 1):
        rest = continued.flip(axis) if boundary == "neumann" else torch.zeros_like(continued)
        continued = torch.cat([continued, rest], dim=axis)
    expected = periodic(continued)[(slice(None), *(slice(count) for count in grid))]
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


@given(side=st.integers(0, 7), rows=st.integers(1, 4), columns=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_padding_continues_the_field(side: int, rows: int, columns: int) -> None:
    x = torch.randn(1, rows, columns, 2)
    i, j = torch.arange(-side, rows + side), torch.arange(-side, columns + side)
    periodic = x[:, i % rows][:, :, j % columns]
    edge = x[:, i.clamp(0, rows - 1)][:, :, j.clamp(0, columns - 1)]
    inside = ((i >= 0) & (i < rows))[:, None] & ((j >= 0) & (j < columns))
    assert torch.equal(pad(x, side, "periodic"), periodic)
    assert torch.equal(pad(x, side, "neumann"), edge)
    assert torch.equal(pad(x, side, "dirichlet"), edge * inside[..., None])


@pytest.mark.parametrize("size", [(2,), (3, 2)])
def test_split_undoes_merge_and_a_token_is_a_block_of_cells(size: tuple[int, ...]) -> None:
    cells = tuple(4 * each for each in size)
    x = torch.randn(2, *cells, 3)
    tokens = merge(x, size)
    assert tokens.shape == (2, *(4 for _ in size), 3 * math.prod(size))
    assert torch.equal(split(tokens, size), x)
    block = x[(slice(None), *(slice(each, 2 * each) for each in size))]
    assert torch.equal(tokens[(slice(None), *(1 for _ in size))], block.flatten(1))


def scores(where: float, other: float, boundary: Boundary, tokens: int = 24) -> float:
    """The scalar product of two equal vectors, rotated at two tokens."""
    vector = torch.ones(1, 1, tokens, 12)
    turned = rotate(vector, (tokens,), boundary)[0, 0]
    return float(turned[int(where * tokens)] @ turned[int(other * tokens)])


def test_rotary_position_tells_the_distance_and_wraps_on_periodic_axes_alone() -> None:
    for boundary in BOUNDARIES:
        assert scores(0.0, 0.25, boundary) == pytest.approx(scores(0.5, 0.75, boundary), abs=1e-3)
        assert abs(scores(0.0, 0.0, boundary) - scores(0.0, 0.25, boundary)) > 1
    assert scores(0.0, 0.75, "periodic") == pytest.approx(scores(0.0, 0.25, "periodic"), abs=1e-3)
    assert abs(scores(0.0, 0.75, "neumann") - scores(0.0, 0.25, "neumann")) > 1


@pytest.mark.parametrize("heads", [1, 4])
def test_rotary_position_tells_both_axes_apart(heads: int) -> None:
    """Also with heads so narrow that each turns with one axis alone."""
    x = torch.ones(1, heads, 12, 8 // heads)
    turned = rotate(x, (3, 4), "periodic").transpose(1, 2).flatten(2)[0]
    assert torch.cdist(turned, turned).fill_diagonal_(1).min() > 0.1


def test_wall_features_tell_every_cell_apart() -> None:
    features = absolute_features(grid_centres((6, 8), torch.device("cpu")), "neumann", 4)
    assert features.shape == (48, 8)
    assert torch.cdist(features, features).fill_diagonal_(1).min() > 0.05


def influence(layer: nn.Module, grid: tuple[int, ...], width: int = 8) -> Tensor:
    """|d out / d in| between tokens (N, N) and between channels (H, H)."""
    x = torch.randn(1, *grid, width)
    jacobian = torch.autograd.functional.jacobian(layer, x).abs()
    count = math.prod(grid)
    return jacobian.reshape(count, width, count, width)


def test_channel_groups_do_not_mix_within_attention() -> None:
    """Each of the groups of 4 channels is an attention of its own, and sees every token."""
    separated = influence(mixer_of("attention", 1, group_size=4), (6,))
    channels = separated.amax((0, 2))
    assert channels[:4, 4:].max() == 0
    assert channels[4:, :4].max() == 0
    assert channels[:4, :4].min() > 0
    assert separated.amax((1, 3)).min() > 0
    together = influence(mixer_of("attention", 1), (6,))
    assert together.amax((0, 2)).min() > 0


@pytest.mark.parametrize(("grid", "axes"), [((8,), 1), ((8, 4), 2)])
@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_windows_do_not_leak_without_a_shift_and_do_with_one(
    grid: tuple[int, ...], axes: int, boundary: Boundary
) -> None:
    along = grid_centres(grid, torch.device("cpu"))[:, 0] * 8
    # the second axis of the grid is one window: nothing is cut or shifted there
    window, shifted_window = (along / 4).floor(), ((along + 2) / 4).floor()
    if boundary == "periodic":
        shifted_window = shifted_window % 2
    seen = {}
    for shifted, window_of in ((False, window), (True, shifted_window)):
        layer = mixer_of("attention", axes, boundary=boundary, window=4, shifted=shifted)
        effect, together = influence(layer, grid).amax((1, 3)), window_of[:, None] == window_of
        assert effect[~together].max() == 0
        assert effect[together].min() > 0
        seen[shifted] = together
    assert (seen[True] & ~seen[False]).any()


def test_one_window_is_attention_among_all_tokens() -> None:
    torch.manual_seed(0)
    full, x = SelfAttention(8, 2), torch.randn(2, 4, 4, 8)
    for shifted in (False, True):
        windowed = SelfAttention(8, 2, window=4, shifted=shifted)
        windowed.load_state_dict(full.state_dict())
        torch.testing.assert_close(windowed(x), full(x))


def test_drop_path_keeps_the_mean_drops_whole_samples_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.3), torch.ones(4000, 3, 2)
    dropped = drop(x)
    assert set(dropped.flatten(1).std(1).tolist()) == {0.0}
    assert float((dropped[:, 0, 0] == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.05)
    torch.manual_seed(0)
    assert torch.equal(drop(x), dropped)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("block", ["fused", "serial"])
def test_a_block_with_drop_path_keeps_some_samples_untouched(block: str) -> None:
    torch.manual_seed(0)
    mixer = build_mixer("conv", 8, 2, 3, 4)
    layer: nn.Module = FusedBlock(8, 8, mixer, 0.5) if block == "fused" else ConditionedBlock(8, 8, mixer, 2.0, 0.5)
    nn.init.normal_(layer.modulation.weight)
    x, condition = torch.randn(64, 6, 8), torch.randn(64, 8)
    untouched = (layer(x, condition) == x).flatten(1).all(1).float().mean()
    assert float(untouched) == pytest.approx(0.5 if block == "fused" else 0.25, abs=0.15)
    assert (layer.eval()(x, condition) != x).flatten(1).any(1).all()

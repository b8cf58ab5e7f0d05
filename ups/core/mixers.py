"""What carries information between the tokens of a grid. B batch, h heads, N tokens, d head width, H width.

Every mixer maps (B, X, H) or (B, X, Y, H) to the same shape. On periodic axes it commutes with shifts by a token.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups.core.layers import GridConv, centres, grid_centres, rms_norm
from ups.core.physics import Boundary
from ups.core.spectral import SpectralProduct

Mixer = Literal["attention", "conv", "spectral", "hybrid"]


def rotate(x_BhNd: Tensor, grid: tuple[int, ...], boundary: Boundary) -> Tensor:
    """Rotary position (RoFormer, arXiv:2104.09864) at the centres of a grid's N tokens.

    The scalar product of two rotated vectors depends on the difference of their positions alone. On periodic axes all
    frequencies are whole waves, so the difference is periodic; between walls they are half waves. In two dimensions
    half of the pairs turn with each axis; a head with a single pair turns with one axis, its neighbour with the other.
    """
    cos, sin = _rotation(x_BhNd.shape[1], grid, x_BhNd.shape[-1] // 2, boundary, x_BhNd.device, x_BhNd.dtype)
    half = cos.shape[-1]
    a, b, rest = x_BhNd[..., :half], x_BhNd[..., half : 2 * half], x_BhNd[..., 2 * half :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


@functools.lru_cache(maxsize=64)
def _rotation(
    heads: int, grid: tuple[int, ...], pairs: int, boundary: Boundary, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles (h or 1, N, pairs)."""
    turn = 2 * math.pi if boundary == "periodic" else math.pi
    if len(grid) == 1:
        angle = turn * centres(grid[0], device)[:, None] * _waves(pairs, device)
        return angle.cos().to(dtype)[None], angle.sin().to(dtype)[None]
    where_NA = grid_centres(grid, device)
    if pairs >= 2:
        shares = [pairs - pairs // 2, pairs // 2]
        parts = [where_NA[:, axis, None] * _waves(share, device) for axis, share in enumerate(shares)]
        angle = turn * torch.cat(parts, dim=-1)[None]
    else:
        angle = turn * torch.stack([where_NA[:, head % 2, None] * _waves(pairs, device) for head in range(heads)])
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _waves(count: int, device: torch.device) -> Tensor:
    # spread over 1..16 waves an axis: fine enough to tell neighbouring tokens, coarse enough to tell far ones
    return torch.linspace(1, 16, count, device=device).round()


class GroupedLinear(nn.Module):
    """A linear layer for each group of channels; groups do not see each other."""

    def __init__(self, width: int, out: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        bound = 1 / math.sqrt(width // groups)
        self.weight = nn.Parameter(torch.empty(groups, width // groups, out // groups).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...gi,gio->...go", x.unflatten(-1, (self.groups, -1)), self.weight).flatten(-2) + self.bias


class Attention(nn.Module):
    """Multi-head attention with rotary positions and QK-norm; queries may be other tokens than keys.

    With `group_size` the channels are cut into groups of that many, each of which attends on its own with `num_heads`
    heads of width group_size / num_heads (channel-separated attention): its projections see no other group.
    """

    def __init__(
        self, width: int, num_heads: int, boundary: Boundary = "periodic", group_size: int | None = None
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be divisible by heads, got {width} and {num_heads}")
        self.boundary = boundary
        groups = width // (group_size or width)
        self.num_heads = num_heads * groups
        self.query = _linear(width, width, groups)
        self.key_value = nn.Linear(width, 2 * width) if groups == 1 else _KeyValue(width, groups)
        self.out = _linear(width, width, groups)

    def forward(self, query_BXH: Tensor, context_BYH: Tensor) -> Tensor:
        grids = [tuple(x.shape[1:-1]) for x in (query_BXH, context_BYH)]
        q = self._split(self.query(query_BXH.flatten(1, -2)))
        k, v = (self._split(part) for part in self.key_value(context_BYH.flatten(1, -2)).chunk(2, dim=-1))
        q = rotate(rms_norm(q), grids[0], self.boundary)
        k = rotate(rms_norm(k), grids[1], self.boundary)
        mixed_BhNd = self._attend(q, k, v, grids[0])
        return self.out(mixed_BhNd.transpose(1, 2).flatten(2)).unflatten(1, grids[0])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, ...]) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def _split(self, x_BNH: Tensor) -> Tensor:
        return x_BNH.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class _KeyValue(nn.Module):
    """Keys and values of separated groups of channels, (..., H) -> (..., 2 H)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.key = GroupedLinear(width, width, groups)
        self.value = GroupedLinear(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.key(x), self.value(x)], dim=-1)


def _linear(width: int, out: int, groups: int) -> nn.Module:
    return nn.Linear(width, out) if groups == 1 else GroupedLinear(width, out, groups)


class SelfAttention(Attention):
    """Attention among all tokens of a grid, or within windows of `window` tokens along each axis.

    Shifted windows (Swin, arXiv:2103.14030) are half a window further along. They wrap on periodic axes; otherwise
    the tokens of two walls that come to lie in one window do not see each other. An axis that is no longer than a
    window is one window.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        boundary: Boundary = "periodic",
        group_size: int | None = None,
        window: int | None = None,
        shifted: bool = False,
    ) -> None:
        super().__init__(width, num_heads, boundary, group_size)
        self.window = window
        self.shifted = shifted

    def forward(self, x_BXH: Tensor, context_BYH: Tensor | None = None) -> Tensor:
        return super().forward(x_BXH, x_BXH if context_BYH is None else context_BYH)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, ...]) -> Tensor:
        if self.window is None or self.window >= max(grid):
            return F.scaled_dot_product_attention(q, k, v)
        order_Wn, back_N, mask_Wnn = _windows(grid, self.window, self.shifted, self.boundary, q.device)
        batch, windows = len(q), len(order_Wn)

        def cut(x_BhNd: Tensor) -> Tensor:
            # windows are samples of their own: (B W, h, n, d)
            return x_BhNd[:, :, order_Wn].transpose(1, 2).flatten(0, 1)

        mask = None if mask_Wnn is None else mask_Wnn[:, None].repeat(batch, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), attn_mask=mask)
        return mixed.unflatten(0, (batch, windows)).transpose(1, 2).flatten(2, 3)[:, :, back_N]


@functools.lru_cache(maxsize=64)
def _windows(
    grid: tuple[int, ...], window: int, shifted: bool, boundary: Boundary, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(the n tokens of each window, the way back, who sees whom in each window or None for all)."""
    sizes = [min(window, size) for size in grid]
    # a window as long as its axis sees it all: nothing to shift
    shifts = [size // 2 if shifted and size < whole else 0 for size, whole in zip(sizes, grid, strict=True)]
    axes = range(len(grid))
    index = torch.arange(math.prod(grid)).view(grid).roll([-shift for shift in shifts], tuple(axes))
    # tokens that were carried over a wall belong to another part
    part = torch.zeros(grid, dtype=torch.long)
    for axis in axes:
        carried = torch.arange(grid[axis]) >= grid[axis] - shifts[axis]
        part = 2 * part + carried.long().view([-1 if other == axis else 1 for other in axes])
    order_Wn, part_Wn = _cut(index, sizes), _cut(part, sizes)
    mask = None
    if boundary != "periodic" and any(shifts):
        mask = (part_Wn[:, :, None] == part_Wn[:, None, :]).to(device)
    return order_Wn.to(device), order_Wn.flatten().argsort().to(device), mask


def _cut(values: Tensor, sizes: list[int]) -> Tensor:
    """Values on a grid in the order of windows: (W, n)."""
    for axis, size in reversed(list(enumerate(sizes))):
        values = values.unflatten(axis, (-1, size))
    axes = len(sizes)
    return values.permute(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)).flatten(axes).flatten(0, axes - 1)


class Hybrid(nn.Module):
    """Attention, depthwise convolution and low-mode spectral product side by side, summed."""

    def __init__(self, attention: SelfAttention, conv: GridConv, spectral: SpectralProduct) -> None:
        super().__init__()
        self.parts = nn.ModuleList([attention, conv, spectral])

    def forward(self, x_BXH: Tensor) -> Tensor:
        return sum((part(x_BXH) for part in self.parts), start=torch.zeros_like(x_BXH))


def build_mixer(
    kind: Mixer,
    width: int,
    num_heads: int,
    kernel: int,
    modes: int | tuple[int, ...],
    *,
    axes: int = 1,
    boundary: Boundary = "periodic",
    group_size: int | None = None,
    window: int | None = None,
    shifted: bool = False,
) -> nn.Module:
    """What carries information between tokens of a grid: (B, X, H) -> (B, X, H), or with Y for two axes."""
    if kind == "attention":
        return SelfAttention(width, num_heads, boundary, group_size, window, shifted)
    if kind == "conv":
        return GridConv(width, width, kernel, axes, boundary)
    if kind == "spectral":
        return SpectralProduct(width, modes, axes=axes, boundary=boundary)
    return Hybrid(
        SelfAttention(width, num_heads, boundary, group_size, window, shifted),
        GridConv(width, width, kernel, axes, boundary, groups=width),
        SpectralProduct(width, modes, num_heads, axes, boundary),
    )

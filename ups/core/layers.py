"""Layers on grids, shared by all parts. B batch, X cells or tokens of every axis, H width, F features of a condition.

Grids travel as (B, X, H) or (B, X, Y, H), channel last; what lies outside the domain is told by its boundary.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ups.core.physics import Boundary


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd to stay centred, got {kernel}; try {kernel - 1} or {kernel + 1}")
    return kernel


Kernel = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""cells or tokens that a convolution sees along each axis"""


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x scaled to unit root mean square over its last axis; no parameters, so no loss can lower itself by scale."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def centres(count: int, device: torch.device) -> Tensor:
    """Centres of `count` equal parts of an axis, as shares of it."""
    return (torch.arange(count, device=device) + 0.5) / count


def grid_centres(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Centres of the parts of a grid (N, axes), the last axis fastest."""
    axes = torch.meshgrid(*(centres(count, device) for count in grid), indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, -2)


def periodic_features(position: Tensor, frequencies: int) -> Tensor:
    """sin and cos of 2 pi n position for n = 1..frequencies: (...) -> (..., 2 frequencies).

    `position` is a share of the period, so the features wrap exactly.
    """
    n = torch.arange(1, frequencies + 1, device=position.device, dtype=position.dtype)
    angle = 2 * math.pi * position[..., None] * n
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def wall_features(position: Tensor, frequencies: int) -> Tensor:
    """cos(pi n position) for n = 1..frequencies, which tells both walls apart: (...) -> (..., frequencies)."""
    n = torch.arange(1, frequencies + 1, device=position.device, dtype=position.dtype)
    return (math.pi * position[..., None] * n).cos()


def absolute_features(points_PA: Tensor, boundary: Boundary, frequencies: int) -> Tensor:
    """Features of every coordinate of points side by side: (P, axes) -> (P, axes * features of one axis)."""
    features = periodic_features if boundary == "periodic" else wall_features
    return features(points_PA, frequencies).flatten(-2)


def pad(x_BXH: Tensor, side: int, boundary: Boundary) -> Tensor:
    """`side` more entries at both ends of every spatial axis: wrapped (periodic), the edge (neumann) or zero."""
    if boundary == "dirichlet":
        return F.pad(x_BXH, (0, 0, *(side,) * 2 * (x_BXH.ndim - 2)))
    for axis in range(1, x_BXH.ndim - 1):
        count = x_BXH.shape[axis]
        if boundary == "periodic":
            # more than one period may be needed when there are few tokens
            whole, part = divmod(side, count)
            before = [x_BXH.narrow(axis, count - part, part)] if part else []
            after = [x_BXH.narrow(axis, 0, part)] if part else []
            x_BXH = torch.cat([*before, *[x_BXH] * (2 * whole + 1), *after], dim=axis)
        else:
            shape = list(x_BXH.shape)
            shape[axis] = side
            first, last = x_BXH.narrow(axis, 0, 1), x_BXH.narrow(axis, count - 1, 1)
            x_BXH = torch.cat([first.expand(shape), x_BXH, last.expand(shape)], dim=axis)
    return x_BXH


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


class GridConv(nn.Module):
    """Convolution over every axis, (B, X, H) -> (B, X, out), padded as the boundary says; depthwise if groups is H."""

    def __init__(
        self, width: int, out: int, kernel: int, axes: int = 1, boundary: Boundary = "periodic", groups: int = 1
    ) -> None:
        super().__init__()
        self.side = kernel // 2
        self.boundary = boundary
        self.conv = (nn.Conv1d if axes == 1 else nn.Conv2d)(width, out, kernel, groups=groups)

    def forward(self, x_BXH: Tensor) -> Tensor:
        padded = pad(x_BXH, self.side, self.boundary) if self.side else x_BXH
        return self.conv(padded.movedim(-1, 1)).movedim(1, -1)


class ResidualConv(nn.Module):
    """x + linear(gelu(conv(x)))."""

    def __init__(self, width: int, kernel: int, axes: int = 1, boundary: Boundary = "periodic") -> None:
        super().__init__()
        self.conv = GridConv(width, width, kernel, axes, boundary)
        self.out = nn.Linear(width, width)

    def forward(self, x_BXH: Tensor) -> Tensor:
        return x_BXH + self.out(F.gelu(self.conv(x_BXH)))


class ConditionEmbedding(nn.Module):
    """The few numbers that a step depends on (log amplitude, parameters, dt), embedded: (B, F) -> (B, out)."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.mlp = Mlp(features, out, out)

    def forward(self, features_BF: Tensor) -> Tensor:
        return F.silu(self.mlp(features_BF))


def merge(x_BXH: Tensor, size: tuple[int, ...]) -> Tensor:
    """Blocks of `size` cells along the axes become one token with all their channels (pixel unshuffle)."""
    if len(size) == 1:
        return x_BXH.unflatten(1, (-1, size[0])).flatten(2)
    x = x_BXH.unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0]))
    return x.transpose(2, 3).flatten(3)


def split(x_BNH: Tensor, size: tuple[int, ...]) -> Tensor:
    """The inverse of `merge`: every token becomes a block of `size` cells."""
    if len(size) == 1:
        return x_BNH.unflatten(-1, (size[0], -1)).flatten(1, 2)
    x = x_BNH.unflatten(-1, (*size, -1)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)

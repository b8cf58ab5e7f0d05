"""From a field on a grid to latent tokens. B batch, X cells of every axis, C channels, N tokens, D latent width."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ups.core.errors import ConfigError
from ups.core.layers import Kernel, ResidualConv, absolute_features, grid_centres, merge, rms_norm
from ups.core.mixers import Attention
from ups.core.physics import Boundary
from ups.core.schema import Schema
from ups.core.types import FieldSpec

_FREQUENCIES = 8


class LatentConfig(Schema):
    """The size of the latent state: `tokens` vectors of width `dim`, each of unit root mean square."""

    tokens: int = Field(64, ge=1)
    dim: int = Field(64, ge=2)

    def grid(self, cells: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens along each axis of a field with so many cells."""
        return token_grid(self.tokens, cells)


def token_grid(tokens: int, cells: tuple[int, ...]) -> tuple[int, ...]:
    """How many tokens lie along each axis.

    In two dimensions the factors of `tokens` whose part of the field is the most square, among those that divide the
    cells where there are any; of two equally square ones that with fewer tokens along the first axis. On a square
    field: 16 -> 4 x 4, 32 -> 4 x 8, 256 -> 16 x 16.
    """
    if len(cells) == 1:
        return (tokens,)
    rows, columns = cells

    def preference(first: int) -> tuple[bool, float, int]:
        second = tokens // first
        ratio = math.log((rows / first) / (columns / second))
        return bool(rows % first or columns % second), round(abs(ratio), 9), first

    best = min((first for first in range(1, tokens + 1) if tokens % first == 0), key=preference)
    return best, tokens // best


class GridEncoder(nn.Module):
    """Patches, a residual convolution stem with the task's boundary, then tokens: (B, X, C) -> (B, N, D).

    On periodic axes it is equivariant to shifts by a whole patch unless `positions` adds features of the patch centres.
    """

    class Config(Schema):
        patch: int | Literal["auto"] = "auto"
        """cells in a patch along each axis; auto is the largest that gives at least `latent.tokens` patches"""
        width: int = Field(64, ge=4)
        kernel: Kernel = 5
        blocks: int = Field(1, ge=0)
        num_heads: int = Field(4, ge=1)
        """heads of the perceiver pooling, used when there are more patches than tokens"""
        positions: Literal["auto", "none", "fourier"] = "auto"
        """fourier: features of the patch centres, sin and cos of whole waves on periodic axes, cos of half waves
        between walls; auto: between walls alone, where the distance to them matters and no translation is a symmetry"""

        def build(self, spec: FieldSpec, latent: LatentConfig) -> GridEncoder:
            return GridEncoder(self, spec, latent)

    def __init__(self, config: Config, spec: FieldSpec, latent: LatentConfig) -> None:
        super().__init__()
        patch = resolve_patch(config.patch, spec.cells, latent.tokens)
        self.patch = (patch,) * spec.axes
        self.patches = tuple(cells // patch for cells in spec.cells)
        self.boundary: Boundary = spec.boundary
        self.positions = config.positions == "fourier" or (config.positions == "auto" and spec.boundary != "periodic")
        # sin and cos of every wave on a periodic axis, cos alone between walls
        extra = spec.axes * _FREQUENCIES * (2 if spec.boundary == "periodic" else 1) if self.positions else 0
        self.lift = nn.Linear(patch**spec.axes * spec.channels + extra, config.width)
        stem = (ResidualConv(config.width, config.kernel, spec.axes, spec.boundary) for _ in range(config.blocks))
        self.stem = nn.Sequential(*stem)
        grid = latent.grid(spec.cells)
        self.pool = (
            PerceiverPooling(config.width, config.num_heads, grid, spec.boundary) if grid != self.patches else None
        )
        self.to_latent = nn.Linear(config.width, latent.dim)

    def forward(self, field_BXC: Tensor) -> Tensor:
        """Latent tokens (B, N, D) of unit rms."""
        return rms_norm(self.unnormalised(field_BXC))

    def unnormalised(self, field_BXC: Tensor) -> Tensor:
        """Latent tokens before their norm."""
        x = merge(field_BXC, self.patch)
        if self.positions:
            where = absolute_features(grid_centres(self.patches, x.device), self.boundary, _FREQUENCIES)
            where = where.to(x.dtype).view(*self.patches, -1)
            x = torch.cat([x, where.expand(len(x), *where.shape)], dim=-1)
        x = self.stem(self.lift(x))
        if self.pool is not None:
            x = self.pool(x)
        return self.to_latent(x.flatten(1, -2))


class PerceiverPooling(nn.Module):
    """Cross-attention of N equally spaced queries to the patches (Perceiver, arXiv:2103.03206); N is free.

    One learned query vector serves all tokens; the tokens differ by their rotary position alone, so that on periodic
    axes pooling commutes with shifts by a whole token.
    """

    def __init__(self, width: int, num_heads: int, grid: tuple[int, ...], boundary: Boundary = "periodic") -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError(f"encoder.width: must be divisible by encoder.num_heads, got {width} and {num_heads}")
        self.grid = grid
        self.query = nn.Parameter(nn.init.normal_(nn.Linear(1, width).weight.T.detach().clone()))
        self.attention = Attention(width, num_heads, boundary)

    def forward(self, patches_BXH: Tensor) -> Tensor:
        query = self.query.expand(len(patches_BXH), *self.grid, -1)
        return query + self.attention(query, rms_norm(patches_BXH))


def resolve_patch(patch: int | str, cells: tuple[int, ...], tokens: int) -> int:
    """The number of cells in a patch along each axis.

    Raises:
        ConfigError: the cells cannot be cut so, or there would be more tokens than patches.
    """
    shape = " x ".join(map(str, cells))
    if patch == "auto":
        sizes = [size for size in range(1, min(cells) + 1) if not any(count % size for count in cells)]
        fitting = [size for size in sizes if math.prod(cells) // size ** len(cells) >= tokens]
        if not fitting:
            raise ConfigError(f"latent.tokens: at most one token for each of the {shape} cells, got {tokens}")
        return fitting[-1]
    size = int(patch)
    if size < 1 or any(count % size for count in cells):
        raise ConfigError(f"encoder.patch: must divide the {shape} cells, got {patch}")
    patches = math.prod(cells) // size ** len(cells)
    if patches < tokens:
        raise ConfigError(
            f"latent.tokens: at most the {patches} patches of {size} cells, got {tokens}; "
            f"choose a smaller encoder.patch"
        )
    return size

"""From latent tokens to a field.

B batch, N tokens, D latent width, X cells of every axis, P query points, W tokens that a point reads, C channels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ups.core.errors import ConfigError
from ups.core.layers import GridConv, Kernel, Mlp, ResidualConv, grid_centres, periodic_features, rms_norm, split
from ups.core.physics import Boundary
from ups.core.schema import Schema
from ups.core.types import FieldSpec
from ups.models.encoder import LatentConfig

_AT_ONCE = 2**25
"""numbers of one intermediate tensor; more query points are read in pieces"""


def log_clamp(field: Tensor, limit: float | None) -> Tensor:
    """sign(y) c log(1 + |y| / c): the identity near 0, and growing ever more slowly beyond c. None changes nothing."""
    if limit is None:
        return field
    return field.sign() * limit * torch.log1p(field.abs() / limit)


class GridDecoder(nn.Module):
    """Upsampling head on the training grid: token stem, each token to its cells, convolution over the cells."""

    class Config(Schema):
        kind: Literal["grid"] = "grid"
        width: int = Field(64, ge=4)
        kernel: Kernel = 5
        blocks: int = Field(1, ge=0)
        cell_width: int = Field(8, ge=1)
        """channels of the convolution over cells, which smooths the seams between tokens"""
        log_clamp: float | None = Field(None, gt=0)
        """c of `sign(y) c log(1 + |y| / c)`, in units of the canonical field; null for none"""

        def build(self, spec: FieldSpec, latent: LatentConfig) -> GridDecoder:
            return GridDecoder(self, spec, latent)

    def __init__(self, config: Config, spec: FieldSpec, latent: LatentConfig) -> None:
        super().__init__()
        self.grid = latent.grid(spec.cells)
        if any(cells % tokens for cells, tokens in zip(spec.cells, self.grid, strict=True)):
            shape = " x ".join(map(str, spec.cells))
            got = str(latent.tokens) if spec.axes == 1 else f"{latent.tokens} ({' x '.join(map(str, self.grid))})"
            raise ConfigError(
                f"latent.tokens: the grid decoder needs a divisor of the {shape} cells, got {got}; "
                f"choose another number or decoder.kind anypoint"
            )
        self.log_clamp = config.log_clamp
        self.cells_per_token = tuple(cells // tokens for cells, tokens in zip(spec.cells, self.grid, strict=True))
        self.lift = nn.Linear(latent.dim, config.width)
        stem = (ResidualConv(config.width, config.kernel, spec.axes, spec.boundary) for _ in range(config.blocks))
        self.stem = nn.Sequential(*stem)
        self.to_cells = nn.Linear(config.width, math.prod(self.cells_per_token) * config.cell_width)
        self.head = GridConv(config.cell_width, spec.channels, config.kernel, spec.axes, spec.boundary)

    def forward(self, latent_BND: Tensor) -> Tensor:
        """Field (B, X, C) on the training grid."""
        x = self.stem(self.lift(latent_BND).unflatten(1, self.grid))
        x_BXH = split(self.to_cells(x), self.cells_per_token)
        return log_clamp(self.head(F.gelu(x_BXH)), self.log_clamp)


class AnyPointDecoder(nn.Module):
    """Cross-attention of query points to the latents, evaluated anywhere in the domain; one head for each field.

    `window`: each point reads its `window` nearest tokens along each axis, weighted by a learned function of content
    and of the relative position (periodic, or between walls). `global`: it reads all of them.
    """

    class Config(Schema):
        kind: Literal["anypoint"] = "anypoint"
        width: int = Field(64, ge=4)
        num_heads: int = Field(4, ge=1)
        """each reads width // num_heads channels of the tokens"""
        locality: Literal["global", "window"] = "window"
        window: int = Field(4, ge=1)
        kernel: Kernel = 5
        blocks: int = Field(1, ge=0)
        frequencies: int = Field(8, ge=1)
        """Fourier features of the relative position: waves 1..frequencies over the window"""
        log_clamp: float | None = Field(None, gt=0)
        """c of `sign(y) c log(1 + |y| / c)`, in units of the canonical field; null for none"""

        def build(self, spec: FieldSpec, latent: LatentConfig) -> AnyPointDecoder:
            return AnyPointDecoder(self, spec, latent)

    def __init__(self, config: Config, spec: FieldSpec, latent: LatentConfig) -> None:
        super().__init__()
        if config.width < config.num_heads:
            raise ConfigError(
                f"decoder.width: at least one channel for each of decoder.num_heads, "
                f"got {config.width} and {config.num_heads}"
            )
        self.cells = spec.cells
        self.boundary: Boundary = spec.boundary
        self.grid = latent.grid(spec.cells)
        self.num_heads = config.num_heads
        self.frequencies = config.frequencies
        self.log_clamp = config.log_clamp
        window = max(self.grid) if config.locality == "global" else config.window
        self.windows = tuple(min(window, tokens) for tokens in self.grid)
        read = config.width // config.num_heads * config.num_heads
        self.lift = nn.Linear(latent.dim, config.width)
        stem = (ResidualConv(config.width, config.kernel, spec.axes, spec.boundary) for _ in range(config.blocks))
        self.stem = nn.Sequential(*stem)
        self.value = nn.Linear(config.width, read)
        self.content_score = nn.Linear(config.width, config.num_heads)
        self.position = Mlp(2 * config.frequencies * spec.axes, config.width, config.num_heads + read)
        self.heads = nn.ModuleList(Mlp(read, config.width, 1) for _ in range(spec.channels))

    def forward(self, latent_BND: Tensor, points_PA: Tensor | None = None) -> Tensor:
        """Field (B, P, C) at points (P, axes) given as shares of the domain in [0, 1).

        Without points (B, X, C), at the cells' centres.
        """
        points = grid_centres(self.cells, latent_BND.device) if points_PA is None else points_PA
        x_BNH = rms_norm(self.stem(self.lift(latent_BND).unflatten(1, self.grid))).flatten(1, -2)
        value_BNH, content_BNh = self.value(x_BNH), self.content_score(x_BNH)
        size = max(1, _AT_ONCE // (value_BNH[:, 0].numel() * math.prod(self.windows)))
        pieces = [self._at(piece, value_BNH, content_BNh) for piece in points.split(size)]
        field = log_clamp(torch.cat(pieces, dim=1), self.log_clamp)
        return field.unflatten(1, self.cells) if points_PA is None else field

    def _at(self, points_PA: Tensor, value_BNH: Tensor, content_BNh: Tensor) -> Tensor:
        """The field before its clamp (B, P, C)."""
        nearest_PW, offset_PWA = self._neighbours(points_PA)
        features = periodic_features(self._phase(offset_PWA), self.frequencies).flatten(-2).to(value_BNH.dtype)
        place_score, place_gate = self.position(features).split([self.num_heads, self.value.out_features], dim=-1)
        score_BPWh = content_BNh[:, nearest_PW] + place_score
        for axis, (window, tokens) in enumerate(zip(self.windows, self.grid, strict=True)):
            if window < tokens:
                # a token fades out before it leaves the window, so that the field is continuous in the point
                share = offset_PWA[..., axis].clamp(-0.5, 0.5)
                score_BPWh = score_BPWh + (torch.cos(math.pi * share).square() + 1e-6).log()[..., None]
        weight_BPWh = torch.softmax(score_BPWh, dim=2)
        # the gate lets a point between two tokens read different channels of each
        value_BPWH = value_BNH[:, nearest_PW] * (1 + place_gate)
        per_head = value_BPWH.unflatten(-1, (self.num_heads, -1)) * weight_BPWh[..., None]
        read_BPH = per_head.sum(2).flatten(2)
        return torch.cat([head(read_BPH) for head in self.heads], dim=-1)

    def _phase(self, offset_PWA: Tensor) -> Tensor:
        """The offsets as shares of a period: of the window where it wraps; of twice the window between walls, where
        a point at one wall may read a token at the other end of the window."""
        return offset_PWA if self.boundary == "periodic" else offset_PWA / 2

    def _neighbours(self, points_PA: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (P, W) of the nearest tokens, and the offsets to them as shares of the window (P, W, axes)."""
        indices, offsets = [], []
        for axis, (window, tokens) in enumerate(zip(self.windows, self.grid, strict=True)):
            point_P = points_PA[:, axis]
            first = torch.floor(point_P * tokens - 0.5 - (window - 1) / 2 + 0.5).long()
            if self.boundary != "periodic":
                first = first.clamp(0, tokens - window)
            index_PW = first[:, None] + torch.arange(window, device=points_PA.device)
            # distances lie in [-W/2, W/2]; for a global window they are periodic in W = tokens by themselves
            offsets.append((point_P[:, None] * tokens - (index_PW + 0.5)) / window)
            indices.append(index_PW % tokens)
        if len(indices) == 1:
            return indices[0], offsets[0][..., None]
        shape = (len(points_PA), *self.windows)
        index = indices[0][:, :, None] * self.grid[1] + indices[1][:, None, :]
        pair = torch.stack([offsets[0][:, :, None].expand(shape), offsets[1][:, None, :].expand(shape)], dim=-1)
        return index.flatten(1), pair.flatten(1, 2)


Decoder = GridDecoder.Config | AnyPointDecoder.Config

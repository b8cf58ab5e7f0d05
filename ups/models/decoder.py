"""From latent tokens to a field. B batch, N tokens, D latent width, X cells, P query points, C channels."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ups.core.errors import ConfigError
from ups.core.layers import CircularConv, Mlp, ResidualConv, centres, periodic_features, rms_norm
from ups.core.schema import Schema
from ups.core.types import FieldSpec
from ups.models.encoder import LatentConfig


class GridDecoder(nn.Module):
    """Upsampling head on the training grid: token stem, each token to its cells, convolution over the cells."""

    class Config(Schema):
        kind: Literal["grid"] = "grid"
        width: int = Field(64, ge=4)
        kernel: int = Field(5, ge=1)
        blocks: int = Field(1, ge=0)
        cell_width: int = Field(8, ge=1)
        """channels of the convolution over cells, which smooths the seams between tokens"""

        def build(self, spec: FieldSpec, latent: LatentConfig) -> GridDecoder:
            return GridDecoder(self, spec, latent)

    def __init__(self, config: Config, spec: FieldSpec, latent: LatentConfig) -> None:
        super().__init__()
        if spec.cells[0] % latent.tokens:
            raise ConfigError(
                f"latent.tokens: the grid decoder needs a divisor of the {spec.cells[0]} cells, got {latent.tokens}; "
                f"choose another number or decoder.kind anypoint"
            )
        self.cells_per_token = spec.cells[0] // latent.tokens
        self.lift = nn.Linear(latent.dim, config.width)
        self.stem = nn.Sequential(*(ResidualConv(config.width, config.kernel) for _ in range(config.blocks)))
        self.to_cells = nn.Linear(config.width, self.cells_per_token * config.cell_width)
        self.head = CircularConv(config.cell_width, spec.channels, config.kernel)

    def forward(self, latent_BND: Tensor) -> Tensor:
        """Field (B, X, C) on the training grid."""
        x_BNH = self.stem(self.lift(latent_BND))
        x_BXH = self.to_cells(x_BNH).unflatten(-1, (self.cells_per_token, -1)).flatten(1, 2)
        return self.head(F.gelu(x_BXH))


class AnyPointDecoder(nn.Module):
    """Cross-attention of query points to the latents, evaluated anywhere in the domain.

    `window`: each point reads its `window` nearest tokens, weighted by a learned function of content and of
    the relative periodic position. `global`: it reads all of them.
    """

    class Config(Schema):
        kind: Literal["anypoint"] = "anypoint"
        width: int = Field(64, ge=4)
        num_heads: int = Field(4, ge=1)
        locality: Literal["global", "window"] = "window"
        window: int = Field(4, ge=1)
        kernel: int = Field(5, ge=1)
        blocks: int = Field(1, ge=0)
        frequencies: int = Field(8, ge=1)
        """Fourier features of the relative position: waves 1..frequencies over the window"""

        def build(self, spec: FieldSpec, latent: LatentConfig) -> AnyPointDecoder:
            return AnyPointDecoder(self, spec, latent)

    def __init__(self, config: Config, spec: FieldSpec, latent: LatentConfig) -> None:
        super().__init__()
        if config.width % config.num_heads:
            raise ConfigError(
                f"decoder.width: must be divisible by decoder.num_heads, got {config.width} and {config.num_heads}"
            )
        self.cells = spec.cells[0]
        self.tokens = latent.tokens
        self.num_heads = config.num_heads
        self.frequencies = config.frequencies
        self.window = latent.tokens if config.locality == "global" else min(config.window, latent.tokens)
        self.lift = nn.Linear(latent.dim, config.width)
        self.stem = nn.Sequential(*(ResidualConv(config.width, config.kernel) for _ in range(config.blocks)))
        self.value = nn.Linear(config.width, config.width)
        self.content_score = nn.Linear(config.width, config.num_heads)
        self.position = Mlp(2 * config.frequencies, config.width, config.num_heads + config.width)
        self.head = Mlp(config.width, config.width, spec.channels)

    def forward(self, latent_BND: Tensor, points_P: Tensor | None = None) -> Tensor:
        """Field (B, P, C) at `points_P` (shares of the period in [0, 1)); at the cells' centres by default."""
        if points_P is None:
            points_P = centres(self.cells, latent_BND.device)
        x_BNH = rms_norm(self.stem(self.lift(latent_BND)))
        nearest_PW, offset_PW = self._neighbours(points_P)
        position_PWK = self.position(periodic_features(offset_PW, self.frequencies).to(x_BNH.dtype))
        place_score, place_gate = position_PWK.split([self.num_heads, x_BNH.shape[-1]], dim=-1)
        score_BPWh = self.content_score(x_BNH)[:, nearest_PW] + place_score
        if self.window < self.tokens:
            # a token fades out before it leaves the window, so that the field is continuous in the point
            score_BPWh = score_BPWh + (torch.cos(math.pi * offset_PW).square() + 1e-6).log()[..., None]
        weight_BPWh = torch.softmax(score_BPWh, dim=2)
        # the gate lets a point between two tokens read different channels of each
        value_BPWH = self.value(x_BNH)[:, nearest_PW] * (1 + place_gate)
        per_head = value_BPWH.unflatten(-1, (self.num_heads, -1)) * weight_BPWh[..., None]
        return self.head(per_head.sum(2).flatten(2))

    def _neighbours(self, points_P: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (P, W) of the nearest tokens, and the offsets to them as a share of the window's period."""
        first = torch.floor(points_P * self.tokens - 0.5 - (self.window - 1) / 2 + 0.5).long()
        index_PW = first[:, None] + torch.arange(self.window, device=points_P.device)
        distance_PW = points_P[:, None] * self.tokens - (index_PW + 0.5)
        # distances lie in [-W/2, W/2]; for a global window they are periodic in W = tokens by themselves
        return index_PW % self.tokens, distance_PW / self.window


Decoder = GridDecoder.Config | AnyPointDecoder.Config

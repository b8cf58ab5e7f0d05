"""From a field on a periodic grid to latent tokens. B batch, X cells, C channels, N tokens, D latent width."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ups.core.errors import ConfigError
from ups.core.layers import Attention, ResidualConv, centres, periodic_features, rms_norm
from ups.core.schema import Schema
from ups.core.types import FieldSpec


class LatentConfig(Schema):
    """The size of the latent state: `tokens` vectors of width `dim`, each of unit root mean square."""

    tokens: int = Field(64, ge=1)
    dim: int = Field(64, ge=2)


class GridEncoder(nn.Module):
    """Patches, a residual circular convolution stem, then tokens (B, X, C) -> (B, N, D).

    Equivariant to shifts by a whole patch unless `positions` adds Fourier features of the patch centres.
    """

    class Config(Schema):
        patch: int | Literal["auto"] = "auto"
        """cells in a patch; auto is the largest that gives at least `latent.tokens` patches"""
        width: int = Field(64, ge=4)
        kernel: int = Field(5, ge=1)
        blocks: int = Field(1, ge=0)
        num_heads: int = Field(4, ge=1)
        """heads of the perceiver pooling, used when there are more patches than tokens"""
        positions: Literal["none", "fourier"] = "none"

        def build(self, spec: FieldSpec, latent: LatentConfig) -> GridEncoder:
            return GridEncoder(self, spec, latent)

    def __init__(self, config: Config, spec: FieldSpec, latent: LatentConfig) -> None:
        super().__init__()
        self.patch = resolve_patch(config.patch, spec.cells[0], latent.tokens)
        self.patches = spec.cells[0] // self.patch
        self.positions = config.positions
        extra = 16 if config.positions == "fourier" else 0
        self.lift = nn.Linear(self.patch * spec.channels + extra, config.width)
        self.stem = nn.Sequential(*(ResidualConv(config.width, config.kernel) for _ in range(config.blocks)))
        self.pool = (
            PerceiverPooling(config.width, config.num_heads, latent.tokens) if latent.tokens != self.patches else None
        )
        self.to_latent = nn.Linear(config.width, latent.dim)

    def forward(self, field_BXC: Tensor) -> Tensor:
        """Latent tokens (B, N, D) of unit rms."""
        return rms_norm(self.unnormalised(field_BXC))

    def unnormalised(self, field_BXC: Tensor) -> Tensor:
        x_BNH = field_BXC.unflatten(1, (self.patches, self.patch)).flatten(2)
        if self.positions == "fourier":
            where = periodic_features(centres(self.patches, x_BNH.device), 8)
            where = where.to(x_BNH.dtype).expand(len(x_BNH), -1, -1)
            x_BNH = F.pad(x_BNH, (0, where.shape[-1]))
            x_BNH[..., -where.shape[-1] :] = where
        x_BNH = self.stem(self.lift(x_BNH))
        if self.pool is not None:
            x_BNH = self.pool(x_BNH)
        return self.to_latent(x_BNH)


class PerceiverPooling(nn.Module):
    """Cross-attention of N equally spaced queries to the patches (Perceiver, arXiv:2103.03206).

    One learned query vector serves all tokens; the tokens differ by their rotary position alone, so that
    pooling commutes with shifts by a whole token.
    """

    def __init__(self, width: int, num_heads: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.query = nn.Parameter(nn.init.normal_(nn.Linear(1, width).weight.T.detach().clone()))
        self.attention = Attention(width, num_heads)

    def forward(self, x_BMH: Tensor) -> Tensor:
        query_BNH = self.query.expand(len(x_BMH), self.tokens, -1)
        return query_BNH + self.attention(query_BNH, rms_norm(x_BMH))


def resolve_patch(patch: int | str, cells: int, tokens: int) -> int:
    """The number of cells in a patch.

    Raises:
        ConfigError: the cells cannot be cut so, or there would be more tokens than patches.
    """
    if patch == "auto":
        fitting = [size for size in range(1, cells + 1) if cells % size == 0 and cells // size >= tokens]
        if not fitting:
            raise ConfigError(f"latent.tokens: at most one token for each of the {cells} cells, got {tokens}")
        return fitting[-1]
    size = int(patch)
    if size < 1 or cells % size:
        raise ConfigError(f"encoder.patch: must divide the {cells} cells, got {patch}")
    if cells // size < tokens:
        raise ConfigError(
            f"latent.tokens: at most the {cells // size} patches of {size} cells, got {tokens}; "
            f"choose a smaller encoder.patch"
        )
    return size

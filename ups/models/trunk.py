"""What the latent operators have in common. B batch, N tokens, D latent width, F condition features, H hidden width."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ups.core.blocks import ConditionedBlock, FusedBlock
from ups.core.layers import ConditionEmbedding, Kernel, absolute_features, grid_centres, rms_norm
from ups.core.mixers import Mixer, build_mixer
from ups.core.physics import Boundary
from ups.core.schema import Schema
from ups.core.spectral import resolved_modes

_WALL_FREQUENCIES = 4


class BlockConfig(Schema):
    """The blocks of a trunk: what mixes their tokens and how wide they are."""

    mixer: Mixer = "spectral"
    block: Literal["fused", "serial"] = "fused"
    """serial: mixer, then MLP, each with its residual; fused: both in one residual, at half the cost"""
    hidden_dim: int = Field(64, ge=4)
    num_heads: int = Field(4, ge=1)
    """heads of the attention (of each group, with group_size), and groups of the hybrid mixer's spectral product"""
    group_size: int | None = Field(None, ge=1)
    """channel-separated attention: the channels are cut into groups of this many, and each attends on its own with
    `num_heads` heads of width group_size / num_heads; null: all channels together"""
    kernel: Kernel = 5
    modes: int = Field(16, ge=1)
    """lowest modes of the spectral product along each axis: whole waves, or half waves between walls"""
    mlp_ratio: float = Field(2.0, gt=0)
    """hidden width of a serial block's MLP, as a multiple of hidden_dim"""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """probability that training leaves the last block's residual of a sample out; rises linearly from the first"""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.mixer in ("attention", "hybrid") and self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be divisible by num_heads, got {self.hidden_dim} and {self.num_heads}")
        if self.group_size is None:
            return self
        self.needs_attention("group_size")
        if self.hidden_dim % self.group_size or self.group_size % self.num_heads:
            rule = "group_size must divide hidden_dim and be a multiple of num_heads"
            legal = [
                size
                for size in range(self.num_heads, self.hidden_dim + 1, self.num_heads)
                if self.hidden_dim % size == 0
            ]
            got = f"got {self.group_size} with hidden_dim {self.hidden_dim} and num_heads {self.num_heads}"
            raise ValueError(f"{rule}, {got}; try {' or '.join(map(str, legal[:3]))}")
        return self

    def needs_attention(self, key: str) -> None:
        """Refuse a key that this mixer would not read."""
        if self.mixer not in ("attention", "hybrid"):
            raise ValueError(f"{key} is read by the mixers attention and hybrid, got {self.mixer}; set {key} to null")


class Trunk(nn.Module):
    """A network from tokens to tokens, (B, N, I) and (B, F) -> (B, N, O), zero until it is trained.

    Subclasses say what happens on the token grid in between. Between walls the positions of the tokens are part of the
    input, as cosines of half waves; on periodic axes positions enter through the mixers alone.
    """

    def __init__(self, width: int, inputs: int, features: int, grid: tuple[int, ...], boundary: Boundary) -> None:
        super().__init__()
        self.grid = grid
        self.boundary: Boundary = boundary
        walls = 0 if boundary == "periodic" else _WALL_FREQUENCIES * len(grid)
        self.condition = ConditionEmbedding(features, width)
        self.lift = nn.Linear(inputs + walls, width)

    def _finish(self, width: int, outputs: int) -> None:
        """Last in a subclass's constructor."""
        self.out = nn.Linear(width, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BNI: Tensor, features_BF: Tensor) -> Tensor:
        if self.boundary != "periodic":
            where = absolute_features(grid_centres(self.grid, x_BNI.device), self.boundary, _WALL_FREQUENCIES)
            x_BNI = torch.cat([x_BNI, where.to(x_BNI.dtype).expand(len(x_BNI), -1, -1)], dim=-1)
        x = self.lift(x_BNI).unflatten(1, self.grid)
        x = self.on_grid(x, self.condition(features_BF))
        return self.out(rms_norm(x.flatten(1, -2)))

    def on_grid(self, x_BXH: Tensor, condition_BH: Tensor) -> Tensor:
        raise NotImplementedError


class LatentOperator(nn.Module):
    """A: z -> rms_norm(z + trunk(z)), the latent one dt later, of unit rms again; untrained it is the identity."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, latent_BND: Tensor, features_BF: Tensor) -> Tensor:
        return rms_norm(latent_BND + self.trunk(latent_BND, features_BF))


def build_block(
    config: BlockConfig,
    grid: tuple[int, ...],
    boundary: Boundary,
    drop_path: float,
    window: int | None = None,
    shifted: bool = False,
) -> ConditionedBlock | FusedBlock:
    """One block of a trunk on a grid of tokens."""
    width = config.hidden_dim
    mixer = build_mixer(
        config.mixer,
        width,
        config.num_heads,
        config.kernel,
        # weights for modes that this grid does not resolve would never be trained
        resolved_modes(config.modes, grid, boundary),
        axes=len(grid),
        boundary=boundary,
        group_size=config.group_size,
        window=window,
        shifted=shifted,
    )
    if config.block == "fused":
        return FusedBlock(width, width, mixer, drop_path)
    return ConditionedBlock(width, width, mixer, config.mlp_ratio, drop_path)


def rising(drop_path: float, blocks: int) -> list[float]:
    """Drop probabilities of the blocks: linear in depth, `drop_path` at the last one."""
    return [drop_path * (1 + index) / blocks for index in range(blocks)]


def shape_of(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def most_halvings(grid: tuple[int, ...]) -> int:
    """How often the tokens can be halved along every axis."""
    common = math.gcd(*grid)
    return (common & -common).bit_length() - 1

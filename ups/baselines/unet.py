"""U-Net in field space (Ronneberger et al. 2015, arXiv:1505.04597): the convolutional peer.

B batch, X cells of every axis, C channels, W width, F condition features.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ups.core.blocks import Chain
from ups.core.errors import ConfigError, UserError
from ups.core.layers import ConditionEmbedding, GridConv, Kernel, merge, rms_norm, split
from ups.core.physics import EQUATIONS, Boundary
from ups.core.schema import Schema
from ups.core.types import FieldSpec


class ConvBlock(nn.Module):
    """x + conv(gelu(conv(y))), y the norm of x scaled and shifted by the condition (FiLM, arXiv:1709.07871)."""

    def __init__(self, width: int, condition: int, kernel: int, axes: int, boundary: Boundary) -> None:
        super().__init__()
        self.first = GridConv(width, width, kernel, axes, boundary)
        self.second = GridConv(width, width, kernel, axes, boundary)
        self.modulation = nn.Linear(condition, 2 * width)

    def forward(self, x_BXW: Tensor, condition_BF: Tensor) -> Tensor:
        both = self.modulation(condition_BF)
        scale, shift = both.view(len(both), *(1,) * (x_BXW.ndim - 2), -1).chunk(2, dim=-1)
        y = rms_norm(x_BXW) * (1 + scale) + shift
        return x_BXW + self.second(F.gelu(self.first(y)))


class Unet(nn.Module):
    """Levels of convolution blocks, each at half the cells and twice the width of the one above, with skips.

    Predicts the change of the field (none before it is trained); of a steady task the solution. On periodic axes it
    commutes with shifts by 2^levels cells.
    """

    has_latent = False

    class Config(Schema):
        kind: Literal["unet"] = "unet"
        width: int = Field(16, ge=1)
        """channels of the finest level"""
        levels: int = Field(3, ge=1)
        """how often the cells are halved along each axis"""
        depth: int = Field(1, ge=1)
        """blocks on each level, on the way down and on the way up"""
        kernel: Kernel = 3

        def build(self, spec: FieldSpec, features: int) -> Unet:
            return Unet(self, spec, features)

    def __init__(self, config: Config, spec: FieldSpec, features: int) -> None:
        super().__init__()
        self.steady = EQUATIONS[spec.equation].steady
        self.levels = config.levels
        if any(cells % 2**config.levels for cells in spec.cells):
            shape = " x ".join(map(str, spec.cells))
            raise ConfigError(
                f"baseline.levels: the cells must be divisible by 2^levels, got {shape} and {config.levels}; "
                f"choose fewer levels"
            )
        widths = [config.width * 2**level for level in range(config.levels + 1)]
        condition, parts = 2 * config.width, 2**spec.axes
        self.halves = (2,) * spec.axes

        def blocks(width: int) -> Chain:
            block = (ConvBlock(width, condition, config.kernel, spec.axes, spec.boundary) for _ in range(config.depth))
            return Chain(block)

        self.condition = ConditionEmbedding(features, condition)
        self.lift = GridConv(spec.channels, widths[0], config.kernel, spec.axes, spec.boundary)
        self.down = nn.ModuleList(blocks(width) for width in widths[:-1])
        self.merge = nn.ModuleList(nn.Linear(parts * above, below) for above, below in itertools.pairwise(widths))
        self.bottom = blocks(widths[-1])
        # from the coarsest level upwards
        self.split = nn.ModuleList(nn.Linear(2 * width, parts * width) for width in reversed(widths[:-1]))
        self.join = nn.ModuleList(nn.Linear(2 * width, width) for width in reversed(widths[:-1]))
        self.up = nn.ModuleList(blocks(width) for width in reversed(widths[:-1]))
        self.head = GridConv(widths[0], spec.channels, config.kernel, spec.axes, spec.boundary)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def step(self, field_BXC: Tensor, features_BF: Tensor) -> Tensor:
        """The field one frame later, or the steady solution, (B, X, C).

        Raises:
            UserError: another grid than the trained one, whose cells cannot be halved so often.
        """
        if any(cells % 2**self.levels for cells in field_BXC.shape[1:-1]):
            shape = " x ".join(map(str, field_BXC.shape[1:-1]))
            raise UserError(f"cells: this U-Net needs a multiple of {2**self.levels} along each axis, got {shape}")
        condition = self.condition(features_BF)
        x = self.lift(field_BXC)
        kept: list[Tensor] = []
        for blocks, to_coarse in zip(self.down, self.merge, strict=True):
            x = blocks(x, condition)
            kept.append(x)
            x = to_coarse(merge(x, self.halves))
        x = self.bottom(x, condition)
        for blocks, to_fine, join in zip(self.up, self.split, self.join, strict=True):
            x = join(torch.cat([split(to_fine(x), self.halves), kept.pop()], dim=-1))
            x = blocks(x, condition)
        change = self.head(F.gelu(x))
        return change if self.steady else field_BXC + change

"""The latent operators A: z(t) -> z(t + dt). B batch, N tokens, D latent width, F condition features, H hidden width.

`config.build` makes the operator, `config.build_trunk` the network inside it, for other inputs and outputs.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ups.core.blocks import Chain
from ups.core.errors import ConfigError
from ups.core.layers import merge, split
from ups.core.mixers import Mixer
from ups.core.physics import Boundary
from ups.models.encoder import LatentConfig
from ups.models.trunk import BlockConfig, LatentOperator, Trunk, build_block, most_halvings, rising, shape_of


class PdetStack(Trunk):
    """Pre-norm blocks at a fixed token count, conditioned by AdaLN-zero."""

    class Config(BlockConfig):
        kind: Literal["pdet_stack"] = "pdet_stack"
        depth: int = Field(4, ge=1)
        window: int | None = Field(None, ge=1)
        """attention within windows of so many tokens along each axis, shifted by half a window in every second block;
        null: among all tokens"""

        @model_validator(mode="after")
        def _window_is_read(self) -> Self:
            if self.window is not None:
                self.needs_attention("window")
            return self

        def build(
            self, latent: LatentConfig, features: int, grid: tuple[int, ...], boundary: Boundary = "periodic"
        ) -> LatentOperator:
            return LatentOperator(self.build_trunk(latent.dim, latent.dim, features, grid, boundary))

        def build_trunk(
            self, inputs: int, outputs: int, features: int, grid: tuple[int, ...], boundary: Boundary = "periodic"
        ) -> PdetStack:
            return PdetStack(self, inputs, outputs, features, grid, boundary)

    def __init__(
        self, config: Config, inputs: int, outputs: int, features: int, grid: tuple[int, ...], boundary: Boundary
    ) -> None:
        super().__init__(config.hidden_dim, inputs, features, grid, boundary)
        window = config.window
        if window is not None and any(tokens > window and tokens % window for tokens in grid):
            raise ConfigError(
                f"pdet_stack.window: must divide the tokens along every longer axis, "
                f"got {window} for {shape_of(grid)} tokens; try {_dividing(window, grid)} or null"
            )
        self.blocks = Chain(
            build_block(config, grid, boundary, rate, window, shifted=index % 2 == 1)
            for index, rate in enumerate(rising(config.drop_path, config.depth))
        )
        self._finish(config.hidden_dim, outputs)

    def on_grid(self, x_BXH: Tensor, condition_BH: Tensor) -> Tensor:
        return self.blocks(x_BXH, condition_BH)


class PdetUnet(Trunk):
    """Blocks on ever coarser token grids and back, as a U-Net: every level merges two tokens along each axis.

    On the way up a level reads its own tokens from the way down (skip) beside the ones split from below. All levels
    are `hidden_dim` wide, and all blocks are conditioned by AdaLN-zero. On periodic axes it commutes with shifts by as
    many tokens as one of the coarsest level stands for.
    """

    class Config(BlockConfig):
        kind: Literal["pdet_unet"] = "pdet_unet"
        mixer: Mixer = "attention"
        depths: tuple[int, ...] = (1, 1, 1)
        """blocks of each level: down .., bottleneck, up ..; an odd number of levels"""

        @model_validator(mode="after")
        def _levels(self) -> Self:
            if len(self.depths) % 2 == 0 or min(self.depths) < 0:
                raise ValueError(
                    f"depths must be an odd number of block counts (down .., bottleneck, up ..), "
                    f"got {list(self.depths)}; try [1, 1, 1]"
                )
            if not sum(self.depths):
                raise ValueError(f"depths must hold at least one block, got {list(self.depths)}; try [1, 1, 1]")
            return self

        def build(
            self, latent: LatentConfig, features: int, grid: tuple[int, ...], boundary: Boundary = "periodic"
        ) -> LatentOperator:
            return LatentOperator(self.build_trunk(latent.dim, latent.dim, features, grid, boundary))

        def build_trunk(
            self, inputs: int, outputs: int, features: int, grid: tuple[int, ...], boundary: Boundary = "periodic"
        ) -> PdetUnet:
            return PdetUnet(self, inputs, outputs, features, grid, boundary)

    def __init__(
        self, config: Config, inputs: int, outputs: int, features: int, grid: tuple[int, ...], boundary: Boundary
    ) -> None:
        super().__init__(config.hidden_dim, inputs, features, grid, boundary)
        width, levels = config.hidden_dim, len(config.depths) // 2
        if levels > most_halvings(grid):
            raise ConfigError(
                f"pdet_unet.depths: {levels} levels down need tokens divisible by {2**levels} along each axis, "
                f"got {shape_of(grid)}; choose at most {2 * most_halvings(grid) + 1} depths or another latent.tokens"
            )
        rates = iter(rising(config.drop_path, sum(config.depths)))
        self.block_size = (2,) * len(grid)
        self.levels = nn.ModuleList()
        for level, count in enumerate(config.depths):
            down = min(level, len(config.depths) - 1 - level)
            size = tuple(tokens // 2**down for tokens in grid)
            blocks = (build_block(config, size, boundary, next(rates)) for _ in range(count))
            self.levels.append(Chain(blocks))
        parts = 2 ** len(grid)
        self.down = nn.ModuleList(nn.Linear(parts * width, width) for _ in range(levels))
        self.up = nn.ModuleList(nn.Linear(width, parts * width) for _ in range(levels))
        self.join = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(levels))
        self._finish(width, outputs)

    def on_grid(self, x_BXH: Tensor, condition_BH: Tensor) -> Tensor:
        x = x_BXH
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.levels):
            if level > len(self.down):
                rise = level - len(self.down) - 1
                above = split(self.up[rise](x), self.block_size)
                x = self.join[rise](torch.cat([above, kept.pop()], dim=-1))
            x = blocks(x, condition_BH)
            if level < len(self.down):
                kept.append(x)
                x = self.down[level](merge(x, self.block_size))
        return x


def _dividing(window: int, grid: tuple[int, ...]) -> int:
    """The largest smaller window that fits."""
    return next(size for size in range(window, 0, -1) if not any(each > size and each % size for each in grid))


Operator = PdetStack.Config | PdetUnet.Config

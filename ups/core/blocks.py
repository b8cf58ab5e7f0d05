"""Residual blocks around a mixer. B batch, X tokens of every axis, H width, F features of a condition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups.core.layers import Mlp, rms_norm
from ups.core.ranks import Part


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training a sample's residual is dropped with probability `rate`.

    What is kept is divided by 1 - rate, so the mean does not change. Draws from torch's global generator.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part: Part | None = None
        """the samples that come here are this part of a batch, for all of which is drawn; None: they are the batch"""

    def forward(self, residual: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return residual
        part = self.part or Part.whole(len(residual))
        draw = torch.rand(part.of, *(1,) * (residual.ndim - 1), device=residual.device)[part.rows]
        return residual * ((draw >= self.rate).to(residual.dtype) / (1 - self.rate))


def draw_for(model: nn.Module, part: Part) -> None:
    """Let what the model draws for its samples be what it would draw for them in the whole batch."""
    for module in model.modules():
        if isinstance(module, DropPath):
            module.part = part


class Chain(nn.ModuleList):
    """Blocks one after the other, all with the same condition."""

    def forward(self, x_BXH: Tensor, condition_BF: Tensor) -> Tensor:
        for block in self:
            x_BXH = block(x_BXH, condition_BF)
        return x_BXH


class ConditionedBlock(nn.Module):
    """Pre-norm block with AdaLN-zero conditioning (DiT, arXiv:2212.09748): the identity until it is trained."""

    def __init__(
        self, width: int, condition: int, mixer: nn.Module, mlp_ratio: float = 2.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.mlp = Mlp(width, int(mlp_ratio * width), width)
        self.modulation = _zero_linear(condition, 6 * width)
        self.drop = DropPath(drop_path)

    def forward(self, x_BXH: Tensor, condition_BF: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulation(self.modulation, condition_BF, x_BXH, 6)
        x = x_BXH
        x = x + self.drop(gate1 * self.mixer(rms_norm(x) * (1 + scale1) + shift1))
        return x + self.drop(gate2 * self.mlp(rms_norm(x) * (1 + scale2) + shift2))


class FusedBlock(nn.Module):
    """Mixing and MLP in one residual: x + gate * out(gelu(mixer(y) + skip(y))), y the modulated norm of x.

    Half the work of a `ConditionedBlock`; the layout of a Fourier layer. Also the identity until it is trained.
    """

    def __init__(self, width: int, condition: int, mixer: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.mixer = mixer
        self.skip = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.modulation = _zero_linear(condition, 3 * width)
        self.drop = DropPath(drop_path)

    def forward(self, x_BXH: Tensor, condition_BF: Tensor) -> Tensor:
        shift, scale, gate = _modulation(self.modulation, condition_BF, x_BXH, 3)
        y = rms_norm(x_BXH) * (1 + scale) + shift
        return x_BXH + self.drop(gate * self.out(F.gelu(self.mixer(y) + self.skip(y))))


def _zero_linear(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _modulation(layer: nn.Linear, condition_BF: Tensor, like_BXH: Tensor, parts: int) -> tuple[Tensor, ...]:
    """`parts` vectors of every sample, shaped to broadcast over the grid."""
    vectors = layer(condition_BF)
    return vectors.view(len(vectors), *(1,) * (like_BXH.ndim - 2), -1).chunk(parts, dim=-1)

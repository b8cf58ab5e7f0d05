"""Fourier neural operator in field space (Li et al. 2021, arXiv:2010.08895), after the published layout of its blocks.

B batch, X cells of every axis, C channels, W width, F condition features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ups.core.layers import Mlp
from ups.core.physics import EQUATIONS
from ups.core.schema import Schema
from ups.core.spectral import SpectralProduct
from ups.core.types import FieldSpec


class Fno(nn.Module):
    """Lifting MLP, `depth` Fourier layers with pointwise skip and GELU, projection MLP.

    Predicts the change of the field; of a steady task the solution.
    """

    has_latent = False

    class Config(Schema):
        kind: Literal["fno"] = "fno"
        width: int = Field(32, ge=1)
        modes: int = Field(32, ge=1)
        """along each axis: whole waves, or half waves between walls"""
        depth: int = Field(4, ge=1)
        position: bool = True
        """append the coordinates x/L as input channels, as the original does"""

        def build(self, spec: FieldSpec, features: int) -> Fno:
            return Fno(self, spec, features)

    def __init__(self, config: Config, spec: FieldSpec, features: int) -> None:
        super().__init__()
        self.position = config.position
        self.steady = EQUATIONS[spec.equation].steady
        width, where = config.width, config.position * spec.axes
        self.lift = Mlp(spec.channels + features + where, 2 * width, width)
        self.spectral = nn.ModuleList(
            SpectralProduct(width, config.modes, axes=spec.axes, boundary=spec.boundary) for _ in range(config.depth)
        )
        self.skip = nn.ModuleList(nn.Linear(width, width) for _ in range(config.depth))
        self.project = Mlp(width, 2 * width, spec.channels)

    def step(self, field_BXC: Tensor, features_BF: Tensor) -> Tensor:
        """The field one frame later, or the steady solution, (B, X, C) on any grid."""
        cells = field_BXC.shape[1:-1]
        like_BX = (len(field_BXC), *cells)
        condition = features_BF.view(len(field_BXC), *(1 for _ in cells), -1)
        inputs = [field_BXC, condition.expand(*like_BX, -1)]
        if self.position:
            shares = [torch.arange(count, device=field_BXC.device, dtype=field_BXC.dtype) / count for count in cells]
            where = torch.stack(torch.meshgrid(*shares, indexing="ij"), dim=-1)
            inputs.append(where.expand(*like_BX, -1))
        x_BXW = self.lift(torch.cat(inputs, dim=-1))
        for layer, (spectral, skip) in enumerate(zip(self.spectral, self.skip, strict=True)):
            x_BXW = spectral(x_BXW) + skip(x_BXW)
            if layer + 1 < len(self.spectral):
                x_BXW = F.gelu(x_BXW)
        change = self.project(x_BXW)
        return change if self.steady else field_BXC + change

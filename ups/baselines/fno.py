"""Fourier neural operator in field space (Li et al. 2021, arXiv:2010.08895), after the published layout of its blocks.

B batch, X cells, C channels, W width, F condition features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ups.core.layers import Mlp, SpectralProduct
from ups.core.schema import Schema
from ups.core.types import FieldSpec


class Fno(nn.Module):
    """Lifting MLP, `depth` Fourier layers with pointwise skip and GELU, projection MLP; predicts the change."""

    has_latent = False

    class Config(Schema):
        kind: Literal["fno"] = "fno"
        width: int = Field(32, ge=1)
        modes: int = Field(32, ge=1)
        depth: int = Field(4, ge=1)
        position: bool = True
        """append the coordinate x/L as an input channel, as the original does"""

        def build(self, spec: FieldSpec, features: int) -> Fno:
            return Fno(self, spec, features)

    def __init__(self, config: Config, spec: FieldSpec, features: int) -> None:
        super().__init__()
        self.position = config.position
        self.lift = Mlp(spec.channels + features + config.position, 2 * config.width, config.width)
        self.spectral = nn.ModuleList(SpectralProduct(config.width, config.modes) for _ in range(config.depth))
        self.skip = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.depth))
        self.project = Mlp(config.width, 2 * config.width, spec.channels)

    def step(self, field_BXC: Tensor, features_BF: Tensor) -> Tensor:
        cells = field_BXC.shape[1]
        inputs = [field_BXC, features_BF[:, None].expand(-1, cells, -1)]
        if self.position:
            where_X1 = torch.arange(cells, device=field_BXC.device, dtype=field_BXC.dtype)[:, None] / cells
            inputs.append(where_X1.expand(len(field_BXC), -1, -1))
        x_BXW = self.lift(torch.cat(inputs, dim=-1))
        for layer, (spectral, skip) in enumerate(zip(self.spectral, self.skip, strict=True)):
            x_BXW = spectral(x_BXW) + skip(x_BXW)
            if layer + 1 < len(self.spectral):
                x_BXW = F.gelu(x_BXW)
        return field_BXC + self.project(x_BXW)

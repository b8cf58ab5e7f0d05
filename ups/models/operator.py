"""The latent operator A: z(t) -> z(t + dt). B batch, N tokens, D latent width, F condition features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from ups.core.layers import ConditionedBlock, ConditionEmbedding, FusedBlock, Mixer, build_mixer, rms_norm
from ups.core.schema import Schema
from ups.models.encoder import LatentConfig


class PdetStack(nn.Module):
    """Pre-norm blocks at a fixed token count, conditioned by AdaLN-zero.

    The residual is zero-initialised: an untrained operator is the identity.
    """

    class Config(Schema):
        kind: Literal["pdet_stack"] = "pdet_stack"
        mixer: Mixer = "spectral"
        block: Literal["fused", "serial"] = "fused"
        """serial: mixer, then MLP, each with its residual; fused: both in one residual, at half the cost"""
        depth: int = Field(4, ge=1)
        hidden_dim: int = Field(64, ge=4)
        num_heads: int = Field(4, ge=1)
        """heads of the attention, and groups of the hybrid mixer's spectral product"""
        kernel: int = Field(5, ge=1)
        modes: int = Field(16, ge=1)
        mlp_ratio: float = Field(2.0, gt=0)
        """hidden width of a serial block's MLP, as a multiple of hidden_dim"""

        @model_validator(mode="after")
        def _divisible(self) -> PdetStack.Config:
            if self.mixer in ("attention", "hybrid") and self.hidden_dim % self.num_heads:
                raise ValueError(
                    f"hidden_dim must be divisible by num_heads, got {self.hidden_dim} and {self.num_heads}"
                )
            if self.kernel % 2 == 0:
                raise ValueError(f"kernel must be odd to stay centred, got {self.kernel}")
            return self

        def build(self, latent: LatentConfig, features: int) -> PdetStack:
            return PdetStack(self, latent, features)

    def __init__(self, config: Config, latent: LatentConfig, features: int) -> None:
        super().__init__()
        width = config.hidden_dim
        self.condition = ConditionEmbedding(features, width)
        self.lift = nn.Linear(latent.dim, width)
        self.blocks = nn.ModuleList(self._block(config) for _ in range(config.depth))
        self.out = nn.Linear(width, latent.dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @staticmethod
    def _block(config: Config) -> ConditionedBlock | FusedBlock:
        width = config.hidden_dim
        mixer = build_mixer(config.mixer, width, config.num_heads, config.kernel, config.modes)
        if config.block == "fused":
            return FusedBlock(width, width, mixer)
        return ConditionedBlock(width, width, mixer, config.mlp_ratio)

    def forward(self, latent_BND: Tensor, features_BF: Tensor) -> Tensor:
        """The latent one dt later, of unit rms again."""
        condition = self.condition(features_BF)
        x = self.lift(latent_BND)
        for block in self.blocks:
            x = block(x, condition)
        return rms_norm(latent_BND + self.out(rms_norm(x)))

"""Weights and horizons that change in the course of a stage. All are pure functions of the stage's progress."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ups.core.schema import Schema


class TermConfig(Schema):
    """One term's weight over the stage: 0, then a ramp, then min(weight, max_weight)."""

    weight: float = Field(0.0, ge=0)
    warmup: float = Field(0.0, ge=0)
    """below 1: a share of the stage; from 1: epochs"""
    max_weight: float | None = Field(None, ge=0)
    ramp: Literal["linear", "cosine"] = "linear"
    every: int = Field(1, ge=1)
    """applied to every n-th batch"""

    def at(self, epoch: float, epochs: int) -> float:
        """The weight at `epoch` (from 0, fractional): 0 before W, rising to its full value at 2 W, then constant."""
        top = self.weight if self.max_weight is None else min(self.weight, self.max_weight)
        warmup = self.warmup * epochs if self.warmup < 1 else self.warmup
        if epoch < warmup:
            return 0.0
        if warmup == 0 or epoch >= 2 * warmup:
            return top
        rise = (epoch - warmup) / warmup
        if self.ramp == "cosine":
            rise = (1 - math.cos(math.pi * rise)) / 2
        return min(self.weight * rise, top)

    def of_batch(self, index: int, epoch: float, epochs: int) -> float:
        """The weight of the `index`-th batch of the stage."""
        return 0.0 if index % self.every else self.at(epoch, epochs)


class RolloutLossConfig(Schema):
    """The forward term after 2..h steps, h growing from 1 at `warmup` to `horizon` at the end of the stage."""

    weight: float = Field(1.0, ge=0)
    horizon: int = Field(4, ge=1)
    warmup: float = Field(0.3, ge=0, le=1)
    """share of the stage trained on single steps"""
    mode: Literal["deployed", "latent", "reencode", "alternate"] = "deployed"
    """how the steps are unrolled: as inference.rollout says, or as named; alternate changes from batch to batch"""
    every: int = Field(1, ge=1)
    pushforward: bool = False
    """the error of step h alone, with the steps before it run without gradient (Brandstetter et al. 2022,
    arXiv:2202.03376): the memory of two steps, whatever the horizon"""

    def steps_at(self, share: float, step: int) -> int:
        """How many steps to unroll for batch `step` at this share of the stage."""
        if self.weight == 0 or self.horizon == 1 or share < self.warmup or step % self.every:
            return 1
        grown = (share - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return min(self.horizon, 2 + int(grown * (self.horizon - 1)))

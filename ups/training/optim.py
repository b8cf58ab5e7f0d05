"""Optimizer and learning-rate schedule of a stage."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ups.core.schema import Schema


class OptimizerConfig(Schema):
    """AdamW (arXiv:1711.05101); weight decay acts on matrices alone, not on biases."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    beta2: float = Field(0.99, gt=0, lt=1)

    def build(self, model: nn.Module) -> torch.optim.AdamW:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, self.beta2), fused=True)


class ScheduleConfig(Schema):
    """The factor on the learning rate over the stage."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    """share of the stage in which the rate rises linearly from 0"""
    final: float = Field(0.0, ge=0, le=1)
    """the cosine's last value, as a share of the full rate"""

    def factor(self, share: float) -> float:
        if share < self.warmup:
            return share / self.warmup
        if self.kind == "constant":
            return 1.0
        done = (share - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class EmaConfig(Schema):
    """Exponential moving average of the weights; it is what is validated, saved as best, and deployed."""

    decay: float = Field(0.999, ge=0, lt=1)

    def at(self, step: int) -> float:
        """The decay after `step` updates: it starts small, so that the first weights are forgotten."""
        return min(self.decay, (1 + step) / (10 + step))

"""Optimizer and learning-rate schedule of a stage."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ups.core.errors import ConfigError
from ups.core.schema import Schema

_SHORTEST = 8
"""a matrix with a shorter side reads or writes a handful of numbers: a condition, or the channels of a field"""


class OptimizerConfig(Schema):
    """AdamW (arXiv:1711.05101), or Muon for the hidden matrices with AdamW for all else.

    Muon (Jordan et al. 2024) makes each update orthogonal; scaled to the root mean square of AdamW's updates
    (Liu et al. 2025, arXiv:2502.16982), so that one `lr` serves both. Weight decay acts on matrices alone, not on
    biases.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    beta2: float = Field(0.99, gt=0, lt=1)
    """of AdamW, also of its share beside Muon"""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's trained parameters; every group keeps its rate at full as `initial_lr`, and says
        in `decays` whether weight decay acts on it.

        Raises:
            ConfigError: Muon would have nothing to do.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = hidden_matrices(model) if self.name == "muon" else []
        taken = {id(matrix) for matrix in matrices}
        rest = [parameter for parameter in trained if id(parameter) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer
        adamw = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, self.beta2), fused=True)
        if self.name == "adamw":
            optimizer = adamw
        elif matrices:
            muon = torch.optim.Muon(
                matrices, lr=self.lr, weight_decay=self.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            optimizer = Together(muon, adamw)
        else:
            raise ConfigError(
                "optimizer.name: muon needs a hidden matrix, and this model has none with two sides of "
                f"{_SHORTEST} or more between its first and its last; use adamw"
            )
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group["decays"] = any(parameter.ndim >= 2 for parameter in group["params"])
        return optimizer


class Together(torch.optim.Optimizer):
    """Several optimizers of disjoint parameters that step, are saved and are restored as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts work on the very groups and state that this object saves."""
        place = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[place : place + count]
            part.state = self.state
            place += count

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "no part may evaluate the loss again"
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The trained weights of linear layers between the first and the last of the model, in the order of definition.

    First, last and short ones face the data; convolutions and spectral weights are no matrices: Muon is not for them.
    """
    linear = [each.weight for each in model.modules() if isinstance(each, nn.Linear) and each.weight.requires_grad]
    return [weight for weight in linear[1:-1] if min(weight.shape) >= _SHORTEST]


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

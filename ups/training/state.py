"""What must survive a restart is one object."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ups.core.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from ups.training.guard import GradientGuard


@dataclass
class TrainState:
    """Everything that the rest of a stage depends on. Batches follow from `step`, so no generator is kept."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    guard: GradientGuard
    step: int = 0
    updates: int = 0
    seconds: float = 0.0
    gradient_norm: float = 0.0
    """of the latest update"""
    learning_rate: float | None = None
    """of the latest update, None before the first"""
    best: float | None = None
    milestones: dict[str, float] = field(default_factory=dict)
    parameters: list[Tensor] = field(init=False)
    averages: list[Tensor] = field(init=False)
    """of `parameters`, in their order"""

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())
        self.averages = list(self.ema.parameters())

    @classmethod
    def start(cls, model: nn.Module, optimizer: torch.optim.Optimizer, guard: GradientGuard) -> TrainState:
        ema = copy.deepcopy(model).eval()
        ema.requires_grad_(False)
        return cls(model, ema, optimizer, guard)

    @property
    def gradients(self) -> list[Tensor]:
        """Those that there are, in the order of the parameters: the same ones on every rank."""
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    @torch.no_grad()  # else the average drags the graph of every update behind it
    def update_ema(self, decay: float) -> None:
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    def to_checkpoint(self, facts: dict[str, Any]) -> Checkpoint:
        """`last`: everything; `facts` of the run travel along."""
        parts = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            # a checkpoint may fall between the batches of one accumulated update
            "gradient": {
                name: parameter.grad for name, parameter in self.model.named_parameters() if parameter.grad is not None
            },
        }
        tensors = {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}
        counters = {
            "step": self.step,
            "updates": self.updates,
            "seconds": self.seconds,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "best": self.best,
            "milestones": self.milestones,
            "guard": self.guard.state(),
        }
        return Checkpoint(tensors, facts | {"state": counters})

    def restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.group("model"))
        self.ema.load_state_dict(checkpoint.group("ema"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))
        gradients = checkpoint.group("gradient")
        for name, parameter in self.model.named_parameters():
            parameter.grad = gradients[name].to(parameter) if name in gradients else None
        counters = dict(checkpoint.facts["state"])
        self.guard.restore(counters.pop("guard"))
        for name, value in counters.items():
            setattr(self, name, value)

"""The predictors that know nothing: what any skill is measured against. X stands for all spatial axes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ups.core.types import FieldSpec


@dataclass
class Persistence:
    """Nothing changes: every predicted frame is the given one."""

    spec: FieldSpec

    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """The given frame `steps` times, (B, steps, X, C)."""
        return initial_BXC.unsqueeze(1).expand(-1, steps, *initial_BXC.shape[1:])


@dataclass
class InitialMean:
    """The no-skill line: every cell of every frame is the spatial mean of the given frame."""

    spec: FieldSpec

    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """The mean of each channel everywhere, (B, steps, X, C)."""
        mean_B1C = initial_BXC.mean(dim=tuple(range(1, initial_BXC.ndim - 1)), keepdim=True)
        return mean_B1C.unsqueeze(1).expand(-1, steps, *initial_BXC.shape[1:])


@dataclass
class MeanSolution:
    """The no-skill line of steady tasks: the mean solution of the training split, whatever is given."""

    spec: FieldSpec
    mean: tuple[float, ...]
    """of each channel, physical units"""

    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """The mean of each channel everywhere, (B, steps, X, C)."""
        return initial_BXC.new_tensor(self.mean).expand(len(initial_BXC), steps, *initial_BXC.shape[1:-1], -1)

"""What the terms of one batch are computed from. B batch, h predicted frames, X all spatial axes, C channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ups.core.types import FieldSpec
from ups.inference.stretch import LatentStep
from ups.inference.surrogate import Surrogate
from ups.training.losses.config import LossesConfig


@dataclass(frozen=True)
class Prediction:
    """Predicted frames beside the truth, physical and in the co-moving frame."""

    surrogate: Surrogate
    losses: LossesConfig
    parameters_BP: Tensor
    mean_B1XC: Tensor
    """the conserved mean that the frame took out, broadcastable; zero where it takes none"""
    given_BXC: Tensor
    truth_BhXC: Tensor
    frames_BhXC: Tensor
    first: LatentStep | None
    """None for field-space models"""
    space_stride: int
    """fine cells of the file per cell"""

    @property
    def spec(self) -> FieldSpec:
        return self.surrogate.spec

    @property
    def std_C(self) -> Tensor:
        """Deviation of each channel in the training data."""
        return self.given_BXC.new_tensor(self.surrogate.normalizer.std)

    @property
    def floor_B1C(self) -> Tensor:
        """What is added to a mean square that something is divided by: (1 % of the deviation)^2, so that a vanishing
        truth does not dominate, and the square of the mean, which belongs to the physical field."""
        return (0.01 * self.std_C).square() + self.mean_B1XC.flatten(1, -2).square()

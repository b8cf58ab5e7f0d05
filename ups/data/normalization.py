"""Mean and deviation of the training data, and the two maps that they define."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Field = TypeVar("Field", np.ndarray, Tensor)


@dataclass(frozen=True)
class Normalizer:
    """Per-channel mean and standard deviation, for fields whose last axis is the channel."""

    mean: tuple[float, ...]
    """of the predicted field"""
    std: tuple[float, ...]
    given: Normalizer | None = None
    """of the given field where that is another quantity than the predicted one: steady tasks"""

    def __post_init__(self) -> None:
        assert len(self.mean) == len(self.std)
        assert all(std > 0 for std in self.std)

    def normalize(self, field_LC: Field) -> Field:
        """Physical units to mean 0 and deviation 1."""
        return (field_LC - _like(field_LC, self.mean)) / _like(field_LC, self.std)

    def denormalize(self, field_LC: Field) -> Field:
        """The inverse of `normalize`."""
        return field_LC * _like(field_LC, self.std) + _like(field_LC, self.mean)

    def to_json(self) -> dict[str, Any]:
        own = {"mean": list(self.mean), "std": list(self.std)}
        return own if self.given is None else {**own, "given": self.given.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Normalizer:
        given = data.get("given")
        return cls(tuple(data["mean"]), tuple(data["std"]), None if given is None else cls.from_json(given))


class Moments:
    """Mean and deviation over all trajectories, frames and cells, collected in one pass and float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean_C = np.zeros(channels)
        self.spread_C = np.zeros(channels)

    def add(self, fields_LC: np.ndarray) -> None:
        """Count every value of `fields_LC`; the last axis is the channel."""
        values_LC = np.asarray(fields_LC, dtype=np.float64).reshape(-1, len(self.mean_C))
        # Chan, Golub, LeVeque 1983: joining two samples without subtracting large squares
        total = self.count + len(values_LC)
        difference_C = values_LC.mean(axis=0) - self.mean_C
        self.spread_C += values_LC.var(axis=0) * len(values_LC)
        self.spread_C += difference_C**2 * (self.count * len(values_LC) / total)
        self.mean_C += difference_C * (len(values_LC) / total)
        self.count = total

    def normalizer(self) -> Normalizer:
        """The normalizer of what was added; a channel that never varies gets deviation 1."""
        assert self.count > 0
        std_C = np.sqrt(self.spread_C / self.count)
        return Normalizer(tuple(self.mean_C.tolist()), tuple(np.where(std_C > 0, std_C, 1.0).tolist()))


def _like(field: Field, numbers: tuple[float, ...]) -> Field:
    if isinstance(field, Tensor):
        return torch.tensor(numbers, dtype=field.dtype, device=field.device)
    return np.asarray(numbers, dtype=field.dtype)

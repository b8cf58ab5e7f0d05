"""The canonical frame: exact symmetries of the equation, taken out before a model and put back after it.

B batch, T frames, X cells of every axis, C channels. Amplitude, Galilean velocity and mean are facts of a sample's
first frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ups.core.physics import EQUATIONS, spectral_shift
from ups.core.types import FieldSpec


@dataclass(frozen=True)
class CanonicalFrame:
    """Maps physical windows to co-moving ones with zero mean, and back.

    With `galilean` the mean m of the first frame is subtracted and its advection undone: v(x, t) = u(x + m t, t) - m
    solves the same Burgers equation, keeps zero mean, and putting m back conserves mass exactly.
    """

    spec: FieldSpec
    symmetry: str

    @property
    def subtracts_mean(self) -> bool:
        return self._applies and EQUATIONS[self.spec.equation].free_mean

    @property
    def moves(self) -> bool:
        return self._applies and EQUATIONS[self.spec.equation].galilean

    @property
    def scales(self) -> bool:
        return self._applies and EQUATIONS[self.spec.equation].amplitude

    @property
    def _applies(self) -> bool:
        # walls stand still at a fixed value or slope; a steady solution is another quantity than what is given
        steady = EQUATIONS[self.spec.equation].steady
        return self.symmetry == "auto" and self.spec.boundary == "periodic" and not steady

    def mean(self, initial_BXC: Tensor) -> Tensor:
        """The conserved mean (B, 1, 1, C), with another 1 for a second axis; zero where the frame leaves it in."""
        space = tuple(range(1, initial_BXC.ndim - 1))
        mean = initial_BXC.mean(space, keepdim=True)[:, None]
        return mean if self.subtracts_mean else torch.zeros_like(mean)

    def enter(self, fields_BTXC: Tensor, mean_B11C: Tensor, first: int = 0) -> Tensor:
        """Physical frames first, first + 1, ... seen in the co-moving frame."""
        return self._move(fields_BTXC - mean_B11C, mean_B11C, first, direction=-1)

    def leave(self, canonical_BTXC: Tensor, mean_B11C: Tensor, first: int = 0) -> Tensor:
        """Co-moving frames first, first + 1, ... as the laboratory sees them."""
        return self._move(canonical_BTXC, mean_B11C, first, direction=1) + mean_B11C

    def _move(self, fields_BTXC: Tensor, mean_B11C: Tensor, first: int, direction: int) -> Tensor:
        if not self.moves:
            return fields_BTXC
        assert self.spec.axes == 1, "a velocity has one component"
        frames = torch.arange(first, first + fields_BTXC.shape[1], device=fields_BTXC.device)
        distance_BCT = direction * mean_B11C[:, 0, 0, :, None] * frames * self.spec.dt
        moved_BCTX = spectral_shift(fields_BTXC.permute(0, 3, 1, 2), distance_BCT, self.spec.length)
        return moved_BCTX.permute(0, 2, 3, 1)

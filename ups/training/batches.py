"""Training windows: which trajectories, which frames, which symmetry, as a pure function of the step.

B batch, T frames of the window, X cells, C channels, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ups.core.physics import EQUATIONS
from ups.core.runtime import generator
from ups.data.task import Trajectories


@dataclass(frozen=True)
class Batch:
    fields_BTXC: Tensor
    parameters_BP: Tensor


@dataclass(frozen=True)
class WindowSampler:
    """Draws batches of windows. No state: step and seed determine a batch, so resuming needs no replay."""

    trajectories: Trajectories
    equation: str
    batch_size: int
    windows_per_trajectory: int
    seed: int
    augment: bool

    @property
    def batches_per_epoch(self) -> int:
        return max(1, len(self.trajectories) * self.windows_per_trajectory // self.batch_size)

    def batch(self, index: int, frames: int) -> Batch:
        """The `index`-th batch of the stage, with windows of `frames` frames."""
        epoch, place = divmod(index, self.batches_per_epoch)
        rows = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        draw = generator(self.seed, "window", index)
        total = self.trajectories.fields_STXC.shape[1]
        starts = torch.randint(0, total - frames + 1, (len(rows),), generator=draw).numpy()
        windows = [
            self.trajectories.fields_STXC[row, start : start + frames] for row, start in zip(rows, starts, strict=True)
        ]
        fields = torch.from_numpy(np.stack(windows))
        parameters = torch.from_numpy(np.asarray(self.trajectories.parameters_SP[rows]))
        if self.augment:
            fields = self._augment(fields, draw)
        return Batch(fields, parameters)

    def _order(self, epoch: int) -> np.ndarray:
        count = len(self.trajectories) * self.windows_per_trajectory
        # a trajectory comes again only after all others, whatever the number of windows
        passes = [
            torch.randperm(len(self.trajectories), generator=generator(self.seed, "order", epoch, k))
            for k in range(self.windows_per_trajectory)
        ]
        order = torch.cat(passes).numpy()
        return np.resize(order, max(count, self.batch_size))

    def _augment(self, fields_BTXC: Tensor, draw: torch.Generator) -> Tensor:
        """Random shifts, and odd reflection where the equation allows it: exact symmetries of the data."""
        batch, _, cells, _ = fields_BTXC.shape
        shift_B = torch.randint(0, cells, (batch,), generator=draw)
        source_BX = (torch.arange(cells) - shift_B[:, None]) % cells
        rows = torch.arange(batch)[:, None]
        moved = fields_BTXC.transpose(1, 2)[rows, source_BX].transpose(1, 2)
        if EQUATIONS[self.equation].reflection != "odd":
            return moved
        reflect_B = torch.rand(batch, generator=draw) < 0.5
        return torch.where(reflect_B[:, None, None, None], -moved.flip(2), moved)

"""Training windows: which trajectories, which frames, which symmetry, as a pure function of the step.

B batch, T frames of the window, X cells (of all axes where nothing else is said), C channels, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core.physics import EQUATIONS, Boundary, Equation
from ups.core.ranks import Part
from ups.core.runtime import generator
from ups.data.task import Task, Trajectories


@dataclass(frozen=True)
class Batch:
    fields_BTXC: Tensor
    parameters_BP: Tensor


@dataclass(frozen=True)
class WindowSampler:
    """Draws batches of windows. No state: step and seed determine a batch, so resuming needs no replay.

    Every file of the task has an equal share of each batch (to within one window) and so of each epoch.
    """

    trajectories: Trajectories
    equation: str
    batch_size: int
    windows_per_trajectory: int
    seed: int
    augment: bool
    boundary: Boundary | None = None
    """of the fields; None is the equation's own"""
    reflects: bool = True
    """the cells lie symmetric in the domain, so that a reflection maps cells to cells"""
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of_task(
        cls, task: Task, batch_size: int, windows_per_trajectory: int, seed: int, augment: bool
    ) -> WindowSampler:
        """Windows of the task's training split."""
        spec = task.spec
        # of walls, striding keeps the first cell but not its mirror image
        reflects = spec.boundary == "periodic" or task.config.space_stride == 1
        return cls(
            task.train, spec.equation, batch_size, windows_per_trajectory, seed, augment, spec.boundary, reflects
        )

    @property
    def batches_per_epoch(self) -> int:
        return max(1, len(self.trajectories) * self.windows_per_trajectory // self.batch_size)

    def batch(self, index: int, frames: int, part: Part | None = None) -> Batch:
        """The `index`-th batch of the stage, with windows of `frames` frames; or the part of it that one rank has."""
        epoch, place = divmod(index, self.batches_per_epoch)
        rows = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        draw = generator(self.seed, "window", index)
        total = self.trajectories.fields_STXC.shape[1]
        starts = torch.randint(0, total - frames + 1, (len(rows),), generator=draw).numpy()
        part = part or Part.whole(len(rows))
        assert part.of == len(rows), (part, len(rows))
        rows, starts = rows[part.rows], starts[part.rows]
        windows = [
            self.trajectories.fields_STXC[row, start : start + frames] for row, start in zip(rows, starts, strict=True)
        ]
        fields = torch.from_numpy(np.stack(windows))
        parameters = torch.from_numpy(np.asarray(self.trajectories.parameters_SP[rows]))
        if self.augment:
            equation = EQUATIONS[self.equation]
            fields = augmented(fields, equation, self.boundary or equation.boundary, self.reflects, draw, part)
        return Batch(fields, parameters)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self._drawn_order(epoch)
        return self._orders[epoch]

    def _drawn_order(self, epoch: int) -> NDArray[np.int64]:
        count = len(self.trajectories) * self.windows_per_trajectory
        file_S = np.asarray(self.trajectories.file_S)
        rows_of_files = [np.flatnonzero(file_S == file) for file in np.unique(file_S)]
        longest = max(len(rows) for rows in rows_of_files)
        # a trajectory comes again only after all others of its file, whatever the number of windows
        passes = []
        for k in range(self.windows_per_trajectory):
            columns = []
            for place, rows in enumerate(rows_of_files):
                key = ("order", epoch, k) if len(rows_of_files) == 1 else ("order", epoch, k, place)
                drawn = torch.randperm(len(rows), generator=generator(self.seed, *key)).numpy()
                columns.append(np.resize(rows[drawn], longest))
            # file by file in turn, so that every run of windows has equal shares
            passes.append(np.stack(columns, axis=1).ravel())
        return np.resize(np.concatenate(passes), max(count, self.batch_size))


def augmented(
    fields_BTXC: Tensor,
    equation: Equation,
    boundary: Boundary,
    reflects: bool,
    draw: torch.Generator,
    part: Part | None = None,
) -> Tensor:
    """Each sample moved by exact symmetries of its equation, drawn at random: what comes out solves it, too.

    Shifts along periodic axes; reflections of each axis with the signs that the equation tells; the exchange of two
    axes of a square grid, with the components of a velocity.

    Args:
        part: which samples of a batch these are, for all of which is drawn; None: they are the batch.
    """
    part = part or Part.whole(len(fields_BTXC))
    batch, *_ = fields_BTXC.shape
    axes = range(2, fields_BTXC.ndim - 1)
    each = (batch, *(1 for _ in fields_BTXC.shape[1:]))
    for axis in axes:
        if boundary == "periodic":
            shift_B = torch.randint(0, fields_BTXC.shape[axis], (part.of,), generator=draw)[part.rows]
            fields_BTXC = _shifted(fields_BTXC, axis, shift_B)
    if equation.reflection == "none":
        return fields_BTXC
    for axis in axes if reflects else ():
        reflect_B = (torch.rand(part.of, generator=draw) < 0.5)[part.rows]
        mirrored = fields_BTXC.flip(axis)
        signs_C = _signs(equation, axis - 2)
        if any(sign < 0 for sign in signs_C):
            mirrored = mirrored * mirrored.new_tensor(signs_C)
        fields_BTXC = torch.where(reflect_B.view(each), mirrored, fields_BTXC)
    if len(axes) == 2 and fields_BTXC.shape[2] == fields_BTXC.shape[3]:
        exchange_B = (torch.rand(part.of, generator=draw) < 0.5)[part.rows]
        exchanged = fields_BTXC.transpose(2, 3)
        if equation.velocity:
            channels = list(range(fields_BTXC.shape[-1]))
            x, y = (equation.channel(name) for name in equation.velocity)
            channels[x], channels[y] = y, x
            exchanged = exchanged[..., channels]
        fields_BTXC = torch.where(exchange_B.view(each), exchanged, fields_BTXC)
    return fields_BTXC


def _shifted(fields_BTXC: Tensor, axis: int, shift_B: Tensor) -> Tensor:
    """Each sample moved up its periodic axis by its own number of cells."""
    cells = fields_BTXC.shape[axis]
    source_BX = (torch.arange(cells) - shift_B[:, None]) % cells
    rows = torch.arange(len(fields_BTXC))[:, None]
    return fields_BTXC.transpose(1, axis)[rows, source_BX].transpose(1, axis)


def _signs(equation: Equation, axis: int) -> list[float]:
    """What each channel is multiplied by when an axis is reflected."""
    if equation.reflection == "odd":
        return [-1.0] * len(equation.channels)
    turned = equation.velocity[axis] if equation.reflection == "vector" else None
    return [-1.0 if name == turned else 1.0 for name in equation.channels]

"""What a family of files is: how it is recognised, described, read and written, in one canonical order.

S trajectories, T frames, X.. cells of each axis, C channels. Each family is one sibling file of this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from ups.core.physics import Boundary

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class FileInfo:
    """What a file holds, read from its coordinates and attributes; no field has been read."""

    path: Path
    family: str
    """which layout: `tensor`, `darcy`, `groups` or `incompressible`"""
    trajectories: int
    frames: int
    """2 in steady files: the given coefficient and the solution"""
    cells: tuple[int, ...]
    """along each axis"""
    channels: int
    length: float
    """physical length of the domain along its first axis: spacing times cells; cells are squares"""
    dt: float
    """physical time between two frames; 1 in steady files"""
    parameters: dict[str, float]
    """numeric attributes, names in lower case, and what PDEBench's own files leave unsaid"""
    equation: str | None
    """the equation that the layout and the attributes point to, None where they do not say"""
    notes: tuple[str, ...] = ()
    """what the file does not say and PDEBench's conventions had to fill in"""
    boundary: Boundary | None = None
    """what the file's attribute says, None where it does not: then the equation's holds"""

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, T, X.., C)"""
        return (self.trajectories, self.frames, *self.cells, self.channels)

    @property
    def dx(self) -> float:
        """physical distance of neighbouring cells"""
        return self.length / self.cells[0]


class Source(Protocol):
    """The fields of one open file."""

    @property
    def rows(self) -> int:
        """How many trajectories share a chunk, and are better unpacked together."""
        ...

    def read(self, rows: range, frames: slice) -> NDArray[np.floating]:
        """Fields (S, T, X.., C) of neighbouring trajectories, in the file's own precision.

        Raises:
            OSError: the data cannot be unpacked.
            DataError: a trajectory is not shaped like the others.
        """
        ...

    def dataset(self, row: int, frame: int, channel: int) -> str:
        """The name of the dataset that holds these values."""
        ...


Write = Callable[[int, NDArray[np.floating]], None]
"""write(trajectory, fields (T, X.., C))"""


@dataclass(frozen=True)
class Family:
    """One layout of files."""

    name: str
    describe: Callable[[Path, h5py.File], FileInfo]
    """raises DataError where the file is not consistent"""
    source: Callable[[Path, h5py.File], Source]
    create: Callable[[h5py.File, tuple[int, ...], float, float], Write]
    """(empty file, (S, T, X.., C), dt, length) -> how to fill it"""

"""Darcy flow: datasets `nu` (S, X, Y), the given coefficient, and `tensor` (S, 1, X, Y), the solution.

A canonical trajectory has two frames: the coefficient, then the solution.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups.core.errors import DataError
from ups.data.pdebench import hdf5
from ups.data.pdebench.family import Family, FileInfo, Write

_GIVEN, _SOLUTION = "nu", "tensor"


def _describe(path: Path, file: h5py.File) -> FileInfo:
    solution = hdf5.float_dataset(path, file, _SOLUTION, ("trajectories", "1", "cells", "cells"))
    given = hdf5.float_dataset(path, file, _GIVEN, ("trajectories", "cells", "cells"))
    trajectories, one, *cells = solution.shape
    if one != 1 or given.shape != (trajectories, *cells):
        raise DataError(
            f"{path}: datasets 'nu' of shape (trajectories, cells, cells) and 'tensor' of shape "
            f"(trajectories, 1, cells, cells) expected, got {given.shape} and {solution.shape}"
        )
    notes: list[str] = []
    return FileInfo(
        path=path,
        family=DARCY.name,
        trajectories=trajectories,
        frames=2,
        cells=tuple(cells),
        channels=1,
        length=hdf5.first_length(path, file, (hdf5.X, hdf5.Y), cells, 1.0, notes),
        dt=1.0,
        parameters=hdf5.parameters_of(file),
        equation=hdf5.named_equation(file) or "darcy",
        notes=tuple(notes),
        boundary=hdf5.named_boundary(path, file),
    )


class _Source:
    def __init__(self, path: Path, file: h5py.File) -> None:
        self.given, self.solution = file[_GIVEN], file[_SOLUTION]
        self.rows = max(hdf5.chunk_rows(self.given), hdf5.chunk_rows(self.solution))

    def read(self, rows: range, frames: slice) -> NDArray[np.floating]:
        # of the two frames, only the one that is asked for
        parts = [
            self.given[rows.start : rows.stop] if frame == 0 else self.solution[rows.start : rows.stop, 0]
            for frame in range(*frames.indices(2))
        ]
        return np.stack(parts, axis=1)[..., None]

    def dataset(self, row: int, frame: int, channel: int) -> str:
        return _SOLUTION if frame else _GIVEN


def _create(file: h5py.File, shape: tuple[int, ...], dt: float, length: float) -> Write:
    trajectories, frames, nx, ny, _ = shape
    assert frames == 2, "the coefficient and the solution"
    dx = length / nx
    file[hdf5.X], file[hdf5.Y] = hdf5.centres(nx, length), hdf5.centres(ny, ny * dx)
    given = file.create_dataset(_GIVEN, (trajectories, nx, ny), np.float32)
    solution = file.create_dataset(_SOLUTION, (trajectories, 1, nx, ny), np.float32)

    def write(number: int, fields_TXYC: NDArray[np.floating]) -> None:
        given[number], solution[number, 0] = fields_TXYC[..., 0]

    return write


DARCY = Family("darcy", _describe, _Source, _create)

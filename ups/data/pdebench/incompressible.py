"""Incompressible flow: `velocity` (S, T, X, Y, 2), `particles` (S, T, X, Y, 1), `force` (S, X, Y, 2), `t` (S, T).

Canonical channels are vx, vy and the scalar s that `particles` holds.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups.core.errors import DataError
from ups.data.pdebench import hdf5
from ups.data.pdebench.family import Family, FileInfo, Write

_VELOCITY, _SCALAR, _FORCE, _T = "velocity", "particles", "force", "t"
_AXES = ("trajectories", "frames", "cells", "cells")


def _describe(path: Path, file: h5py.File) -> FileInfo:
    velocity = hdf5.float_dataset(path, file, _VELOCITY, (*_AXES, "2"))
    scalar = hdf5.float_dataset(path, file, _SCALAR, (*_AXES, "1"))
    trajectories, frames, *cells, components = velocity.shape
    if components != 2 or scalar.shape != (*velocity.shape[:-1], 1):
        raise DataError(
            f"{path}: datasets 'velocity' of shape ({', '.join(_AXES)}, 2) and 'particles' with one channel on the "
            f"same grid expected, got {velocity.shape} and {scalar.shape}"
        )
    _refuse_force(path, file)
    notes: list[str] = []
    return FileInfo(
        path=path,
        family=INCOMPRESSIBLE.name,
        trajectories=trajectories,
        frames=frames,
        cells=tuple(cells),
        channels=3,
        length=hdf5.first_length(path, file, (hdf5.X, hdf5.Y), cells, 1.0, notes),
        dt=_frame_spacing(path, file, trajectories, frames),
        parameters=hdf5.parameters_of(file),
        equation=hdf5.named_equation(file) or "navier_stokes",
        notes=tuple(notes),
        boundary=hdf5.named_boundary(path, file),
    )


def _refuse_force(path: Path, file: h5py.File) -> None:
    force = file.get(_FORCE)
    # a dataset that was never written takes no room and is zero
    if not isinstance(force, h5py.Dataset) or force.ndim == 0 or force.id.get_storage_size() == 0:
        return
    for number in range(len(force)):
        if np.any(force[number]):
            raise DataError(
                f"{path}: dataset 'force' must be zero, trajectory {number} is forced; forced flows are not supported"
            )


def _frame_spacing(path: Path, file: h5py.File, trajectories: int, frames: int) -> float:
    found = file.get(_T)
    shape = found.shape if isinstance(found, h5py.Dataset) else None
    lengths = (frames, frames + 1)
    if shape is None or shape[-1] not in lengths or shape[:-1] not in ((), (trajectories,)) or shape[-1] < 2:
        raise DataError(
            f"{path}: dataset 't' of shape ({trajectories}, {frames}) or ({frames},) expected, "
            f"found {'none' if shape is None else shape}"
        )
    first, *rest = np.atleast_2d(found[...].astype(np.float64))
    step = hdf5.even_spacing(path, _T, first)
    if any(np.abs(np.diff(row) - step).max() > 0.05 * step for row in rest):
        raise DataError(f"{path}: dataset 't' must have the same spacing in every trajectory")
    return hdf5.rounded(step)


class _Source:
    def __init__(self, path: Path, file: h5py.File) -> None:
        self.velocity, self.scalar = file[_VELOCITY], file[_SCALAR]
        self.rows = max(hdf5.chunk_rows(self.velocity), hdf5.chunk_rows(self.scalar))

    def read(self, rows: range, frames: slice) -> NDArray[np.floating]:
        chosen = slice(rows.start, rows.stop)
        return np.concatenate([self.velocity[chosen, frames], self.scalar[chosen, frames]], axis=-1)

    def dataset(self, row: int, frame: int, channel: int) -> str:
        return _SCALAR if channel == 2 else _VELOCITY


def _create(file: h5py.File, shape: tuple[int, ...], dt: float, length: float) -> Write:
    trajectories, frames, nx, ny, _ = shape
    # PDEBench's files leave the coordinates to the unit square; ours say them
    file[hdf5.X], file[hdf5.Y] = hdf5.centres(nx, length), hdf5.centres(ny, length / nx * ny)
    file[_T] = np.tile(hdf5.times(frames, dt), (trajectories, 1))
    velocity = file.create_dataset(_VELOCITY, (trajectories, frames, nx, ny, 2), np.float32)
    scalar = file.create_dataset(_SCALAR, (trajectories, frames, nx, ny, 1), np.float32)
    file.create_dataset(_FORCE, (trajectories, nx, ny, 2), np.float32)

    def write(number: int, fields_TXYC: NDArray[np.floating]) -> None:
        velocity[number], scalar[number] = fields_TXYC[..., :2], fields_TXYC[..., 2:]

    return write


INCOMPRESSIBLE = Family("incompressible", _describe, _Source, _create)

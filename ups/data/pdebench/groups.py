"""2-D diffusion-reaction: a group per trajectory, `0000`, .., of `data` (T, X, Y, C), `grid/x`, `grid/y`, `grid/t`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups.core.errors import DataError
from ups.data.pdebench import hdf5
from ups.data.pdebench.family import Family, FileInfo, Write

_DATA, _X, _Y, _T = "data", "grid/x", "grid/y", "grid/t"
# PDEBench's domain is [-1, 1] along each axis
_LENGTH = 2.0


def group_names(file: h5py.File) -> list[str]:
    """The groups that are trajectories, in their order."""
    return sorted((name for name in file if name.isdecimal()), key=int)


def _describe(path: Path, file: h5py.File) -> FileInfo:
    names = group_names(file)
    first = f"{names[0]}/{_DATA}"
    _refuse_later(path, file, first)
    frames, *cells, channels = hdf5.float_dataset(path, file, first, ("frames", "cells", "cells", "channels")).shape
    group = file[names[0]]
    notes: list[str] = []
    length = hdf5.first_length(path, group, (_X, _Y), cells, _LENGTH, notes)
    return FileInfo(
        path=path,
        family=GROUPS.name,
        trajectories=len(names),
        frames=frames,
        cells=tuple(cells),
        channels=channels,
        length=length,
        dt=_frame_spacing(path, group, frames, notes),
        parameters=hdf5.parameters_of(file),
        equation=hdf5.named_equation(file) or "diffusion_reaction",
        notes=tuple(notes),
        boundary=hdf5.named_boundary(path, file),
    )


def _refuse_later(path: Path, file: h5py.File, name: str) -> None:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        return
    sorption = found.ndim == 3 and _Y not in found.parent
    if sorption or (found.ndim == 4 and found.shape[-1] == 1):
        family = "diffusion-sorption" if sorption else "shallow water"
        raise DataError(
            f"{path}: {family} is not supported yet; dataset '{name}' of shape (frames, cells, cells, 2) expected, "
            f"got {found.shape}"
        )


def _frame_spacing(path: Path, group: h5py.Group, frames: int, notes: list[str]) -> float:
    if _T in group:
        return hdf5.rounded(hdf5.spacing(path, group, _T, (frames, frames + 1)))
    if frames == 101:
        notes.append("no grid/t: PDEBench's 101 frames over 5 time units assumed")
        return 0.05
    raise DataError(f"{path}: dataset '{_T}' expected in each group with {frames} times, there is none")


class _Source:
    rows = 1

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file
        self.names = group_names(file)
        self.shape = file[self.dataset(0, 0, 0)].shape

    def read(self, rows: range, frames: slice) -> NDArray[np.floating]:
        return np.stack([self._data(row)[frames] for row in rows])

    def _data(self, row: int) -> h5py.Dataset:
        found = self.file.get(self.dataset(row, 0, 0))
        if not isinstance(found, h5py.Dataset) or found.shape != self.shape or found.dtype.kind != "f":
            got = f"{found.dtype} {found.shape}" if isinstance(found, h5py.Dataset) else "none"
            raise DataError(
                f"{self.path}: dataset '{self.dataset(row, 0, 0)}' must hold floats of the first group's shape "
                f"{self.shape}, got {got}"
            )
        return found

    def dataset(self, row: int, frame: int, channel: int) -> str:
        return f"{self.names[row]}/{_DATA}"


def _create(file: h5py.File, shape: tuple[int, ...], dt: float, length: float) -> Write:
    _, frames, nx, ny, _ = shape
    height = length / nx * ny

    def write(number: int, fields_TXYC: NDArray[np.floating]) -> None:
        group = file.create_group(f"{number:04d}")
        group.create_dataset(_DATA, data=fields_TXYC, dtype=np.float32)
        group[_X], group[_Y] = hdf5.centres(nx, length, -length / 2), hdf5.centres(ny, height, -height / 2)
        group[_T] = hdf5.times(frames, dt)

    return write


GROUPS = Family("groups", _describe, _Source, _create)

"""Burgers, advection, 1-D reaction-diffusion: dataset `tensor` (S, T, X), one field on an interval."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups.core.errors import DataError
from ups.data.pdebench import hdf5
from ups.data.pdebench.family import Family, FileInfo, Write

_NAME = "tensor"


def _describe(path: Path, file: h5py.File) -> FileInfo:
    trajectories, frames, cells = hdf5.float_dataset(path, file, _NAME, ("trajectories", "frames", "cells")).shape
    notes: list[str] = []
    length = hdf5.first_length(path, file, (hdf5.X,), (cells,), 1.0, notes)
    dt = _frame_spacing(path, file, frames, notes)
    parameters = hdf5.parameters_of(file)
    return FileInfo(
        path=path,
        family=TENSOR.name,
        trajectories=trajectories,
        frames=frames,
        cells=(cells,),
        channels=1,
        length=length,
        dt=dt,
        parameters=parameters,
        equation=hdf5.named_equation(file) or _equation(parameters),
        notes=tuple(notes),
        boundary=hdf5.named_boundary(path, file),
    )


def _equation(parameters: dict[str, float]) -> str | None:
    if "rho" in parameters:
        return "reaction_diffusion"
    if {"nu", "beta"} <= set(parameters):
        return None
    return "advection" if "beta" in parameters else "burgers" if "nu" in parameters else None


def _frame_spacing(path: Path, file: h5py.File, frames: int, notes: list[str]) -> float:
    if hdf5.T in file:
        # PDEBench writes the edges of the frames: one time more than there are frames
        return hdf5.rounded(hdf5.spacing(path, file, hdf5.T, (frames, frames + 1)))
    if frames == 201:
        notes.append("no t-coordinate: PDEBench's 201 frames over 2 time units assumed")
        return 0.01
    raise DataError(f"{path}: dataset '{hdf5.T}' expected with {frames} or {frames + 1} times, there is none")


class _Source:
    def __init__(self, path: Path, file: h5py.File) -> None:
        self.tensor = file[_NAME]
        self.rows = hdf5.chunk_rows(self.tensor)

    def read(self, rows: range, frames: slice) -> NDArray[np.floating]:
        return self.tensor[rows.start : rows.stop, frames, :][..., None]

    def dataset(self, row: int, frame: int, channel: int) -> str:
        return _NAME


def _create(file: h5py.File, shape: tuple[int, ...], dt: float, length: float) -> Write:
    trajectories, frames, cells, _ = shape
    file[hdf5.X] = hdf5.centres(cells, length)
    file[hdf5.T] = hdf5.times(frames + 1, dt)
    tensor = file.create_dataset(_NAME, (trajectories, frames, cells), np.float32)

    def write(number: int, fields_TXC: NDArray[np.floating]) -> None:
        tensor[number] = fields_TXC[..., 0]

    return write


TENSOR = Family("tensor", _describe, _Source, _create)

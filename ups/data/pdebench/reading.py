"""Reading files of every family: what they hold, and their trajectories one by one.

Files of many gigabytes are normal: nothing here holds more than a few trajectories at their full resolution,
nor a trajectory that is larger than a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups.core.errors import DataError
from ups.core.physics import EQUATIONS
from ups.data.pdebench.families import FAMILIES, recognise
from ups.data.pdebench.family import Array32, FileInfo, Source
from ups.data.pdebench.hdf5 import open_hdf5

_BLOCK_BYTES = 128 * 2**20


def inspect(path: str | Path) -> FileInfo:
    """Describe a file without reading its fields.

    Raises:
        DataError: missing, unreadable, damaged, of an unknown or not yet supported family, or inconsistent.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        info = recognise(path, file).describe(path, file)
    known = EQUATIONS.get(info.equation or "")
    unsaid = {name: value for name, value in (known.defaults if known else {}).items() if name not in info.parameters}
    if not unsaid:
        return info
    assumed = ", ".join(f"{name} {value:g}" for name, value in unsaid.items())
    notes = (*info.notes, f"no attribute {', '.join(unsaid)}: PDEBench's {assumed} assumed")
    return replace(info, parameters={**info.parameters, **unsaid}, notes=notes)


def read_trajectories(
    info: FileInfo,
    *,
    space_stride: int = 1,
    time_stride: int = 1,
    frames: int | None = None,
    trajectories: Iterable[int] | None = None,
) -> Iterator[Array32]:
    """The reduced trajectories one after another, each (T, X.., C); ascending numbers read fastest.

    Args:
        space_stride: keep every n-th cell along every axis.
        frames: number of frames after striding, None for all.
        trajectories: numbers of the trajectories, None for all.

    Raises:
        DataError: a stride or the frames do not fit the file, a value is not finite, or the file is damaged.
    """
    frames = check_reduction(info, space_stride, time_stride, frames)
    thin = (slice(None), *(slice(None, None, space_stride) for _ in info.cells))
    # room for the file's values and for the single precision copy, which may be half of it
    frame_bytes = 8 * int(np.prod(info.cells)) * info.channels
    with open_hdf5(info.path) as file:
        source = FAMILIES[info.family].source(info.path, file)
        rows = max(1, min(source.rows, _BLOCK_BYTES // (frame_bytes * frames)))
        pieces = _pieces(frames, max(1, _BLOCK_BYTES // (frame_bytes * rows)), time_stride)
        held = (-1, -1)
        block_STXC: NDArray[np.floating] = np.empty(0)
        for number in range(info.trajectories) if trajectories is None else trajectories:
            start = number - number % rows
            parts = []
            for place, piece in enumerate(pieces):
                if held != (start, place):
                    held = (start, place)
                    block_STXC = _read(info, source, range(start, min(start + rows, info.trajectories)), piece)
                fields_TXC = block_STXC[number - start].astype(np.float32)
                _refuse_not_finite(info, source, fields_TXC, number, piece)
                # cells are strided in memory: HDF5 is slow at picking single numbers out of a row
                parts.append(np.ascontiguousarray(fields_TXC[thin]))
            yield parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_reduced(
    path: str | Path,
    space_stride: int = 1,
    time_stride: int = 1,
    frames: int | None = None,
    trajectories: Iterable[int] | None = None,
) -> Array32:
    """The reduced fields as one array (S, T, X.., C); memory holds little more than the result.

    Raises:
        DataError: as `inspect` and `read_trajectories`.
    """
    info = inspect(path)
    frames = check_reduction(info, space_stride, time_stride, frames)
    numbers = range(info.trajectories) if trajectories is None else list(trajectories)
    cells = (count // space_stride for count in info.cells)
    out_STXC = np.empty((len(numbers), frames, *cells, info.channels), np.float32)
    reduction = read_trajectories(
        info, space_stride=space_stride, time_stride=time_stride, frames=frames, trajectories=numbers
    )
    for row, fields_TXC in enumerate(reduction):
        out_STXC[row] = fields_TXC
    return out_STXC


def check_reduction(info: FileInfo, space_stride: int, time_stride: int, frames: int | None) -> int:
    """The number of frames after striding.

    Raises:
        DataError: the strides leave no regular grid or too few frames, or `frames` asks for more.
    """
    if any(cells % space_stride or cells // space_stride < 2 for cells in info.cells):
        cells = " x ".join(map(str, info.cells))
        raise DataError(
            f"{info.path}: space_stride must divide the {cells} cells and leave 2 or more, got {space_stride}"
        )
    available = (info.frames - 1) // time_stride + 1
    if frames is None and available < 2:
        raise DataError(
            f"{info.path}: time_stride must leave at least 2 of the {info.frames} frames, got {time_stride}"
        )
    if frames is not None and frames > available:
        raise DataError(f"{info.path}: {frames} frames wanted, time_stride {time_stride} leaves {available}")
    return available if frames is None else frames


def _pieces(frames: int, size: int, stride: int) -> list[slice]:
    """The file's frames, every `stride`-th of them, cut into pieces of at most `size`."""
    firsts = range(0, frames, size)
    return [slice(first * stride, (min(first + size, frames) - 1) * stride + 1, stride) for first in firsts]


def _read(info: FileInfo, source: Source, rows: range, frames: slice) -> NDArray[np.floating]:
    try:
        return source.read(rows, frames)
    except OSError as error:
        name = source.dataset(rows.start, frames.start, 0)
        raise DataError(f"{info.path}: dataset '{name}' is damaged near trajectory {rows.start} ({error})") from None


def _refuse_not_finite(info: FileInfo, source: Source, fields_TXC: Array32, number: int, frames: slice) -> None:
    finite = np.isfinite(fields_TXC)
    if finite.all():
        return
    place, *_, channel = (int(index) for index in np.argwhere(~finite)[0])
    frame = frames.start + place * frames.step
    raise DataError(
        f"{info.path}: dataset '{source.dataset(number, frame, channel)}' must be finite, "
        f"found NaN or infinity in trajectory {number}, frame {frame}"
    )

"""Reading and writing PDEBench's `tensor` files: fields (trajectories, frames, cells) in HDF5.

Whatever the family, a reader ends in one canonical order, (S, T, X.., C). Files of many gigabytes are normal:
nothing here holds more than a few trajectories at their full resolution.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ups.core.errors import DataError

Array32 = NDArray[np.float32]

_TENSOR, _X, _T = "tensor", "x-coordinate", "t-coordinate"
_BOOKKEEPING = {"seed", "oversample"}
# chunks of compressed files hold pieces of many trajectories, which are better unpacked together
_BLOCK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class FileInfo:
    """What a file holds, read from its coordinates and attributes; no field has been read."""

    path: Path
    family: str
    trajectories: int
    frames: int
    cells: tuple[int, ...]
    channels: int
    length: float
    """physical length of the domain: spacing times cells"""
    dt: float
    """physical time between two frames"""
    parameters: dict[str, float]
    """numeric attributes, names in lower case"""
    equation: str | None
    """the equation that the attributes point to, None where they do not say"""
    notes: tuple[str, ...] = ()
    """what the file does not say and PDEBench's conventions had to fill in"""

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, T, X.., C)"""
        return (self.trajectories, self.frames, *self.cells, self.channels)

    @property
    def dx(self) -> float:
        """physical distance of neighbouring cells"""
        return self.length / self.cells[0]


def inspect(path: str | Path) -> FileInfo:
    """Describe a file without reading its fields.

    Raises:
        DataError: missing, unreadable, damaged, of an unknown or not yet supported family, or inconsistent.
    """
    path = Path(path)
    with _open(path) as file:
        family = _family(path, file)
        tensor = file[_TENSOR]
        if tensor.ndim != 3 or tensor.dtype.kind != "f" or 0 in tensor.shape:
            raise DataError(
                f"{path}: dataset 'tensor' must hold floats of shape (trajectories, frames, cells), "
                f"got {tensor.dtype} {tensor.shape}"
            )
        trajectories, frames, cells = tensor.shape
        notes: list[str] = []
        length = _length(path, file, cells, notes)
        dt = _frame_spacing(path, file, frames, notes)
        attributes = {name.lower(): value for name, value in file.attrs.items()}
    parameters = {
        name: float(np.ravel(value)[0])
        for name, value in attributes.items()
        if name not in _BOOKKEEPING and np.size(value) == 1 and np.asarray(value).dtype.kind in "fiu"
    }
    return FileInfo(
        path,
        family,
        trajectories,
        frames,
        (cells,),
        1,
        length,
        dt,
        parameters,
        _equation(attributes),
        tuple(notes),
    )


def read_trajectories(
    info: FileInfo,
    *,
    space_stride: int = 1,
    time_stride: int = 1,
    frames: int | None = None,
    trajectories: Iterable[int] | None = None,
) -> Iterator[Array32]:
    """The reduced trajectories one after another, each (T, X, C); ascending numbers read fastest.

    Args:
        frames: number of frames after striding, None for all.
        trajectories: numbers of the trajectories, None for all.

    Raises:
        DataError: a stride or the frames do not fit the file, a value is not finite, or the file is damaged.
    """
    frames = check_reduction(info, space_stride, time_stride, frames)
    last = (frames - 1) * time_stride + 1
    with _open(info.path) as file:
        tensor = file[_TENSOR]
        block = _block(tensor, frames)
        start, block_STX = -1, np.empty(0)
        for number in range(info.trajectories) if trajectories is None else trajectories:
            if start != number - number % block:
                start = number - number % block
                try:
                    # cells are strided in memory: HDF5 is slow at picking single numbers out of a row
                    block_STX = tensor[start : start + block, :last:time_stride, :]
                except OSError as error:
                    raise DataError(
                        f"{info.path}: dataset 'tensor' is damaged near trajectory {start} ({error})"
                    ) from None
            fields_TX = block_STX[number - start].astype(np.float32)
            if not np.isfinite(fields_TX).all():
                frame = int(np.argmin(np.isfinite(fields_TX).all(axis=1))) * time_stride
                raise DataError(
                    f"{info.path}: dataset 'tensor' must be finite, "
                    f"found NaN or infinity in trajectory {number}, frame {frame}"
                )
            yield np.ascontiguousarray(fields_TX[:, ::space_stride, None])


def read_reduced(
    path: str | Path,
    space_stride: int = 1,
    time_stride: int = 1,
    frames: int | None = None,
    trajectories: Iterable[int] | None = None,
) -> Array32:
    """The reduced fields as one array (S, T, X, C); memory holds little more than the result.

    Raises:
        DataError: as `inspect` and `read_trajectories`.
    """
    info = inspect(path)
    frames = check_reduction(info, space_stride, time_stride, frames)
    numbers = range(info.trajectories) if trajectories is None else list(trajectories)
    out_STXC = np.empty((len(numbers), frames, info.cells[0] // space_stride, info.channels), np.float32)
    reduction = read_trajectories(
        info, space_stride=space_stride, time_stride=time_stride, frames=frames, trajectories=numbers
    )
    for row, fields_TXC in enumerate(reduction):
        out_STXC[row] = fields_TXC
    return out_STXC


def check_reduction(info: FileInfo, space_stride: int, time_stride: int, frames: int | None) -> int:
    """The number of frames after striding.

    Raises:
        DataError: the strides leave no regular periodic grid or too few frames, or `frames` asks for more.
    """
    cells = info.cells[0]
    if cells % space_stride or cells // space_stride < 2:
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


def write_tensor_file(
    path: str | Path, fields_STX: ArrayLike, *, dt: float, length: float = 1.0, **attributes: Any
) -> Path:
    """Write an array (S, T, X) as a file that every command reads, with attributes such as `nu=0.01`.

    Raises:
        DataError: wrong shape, or the file cannot be written.
    """
    fields_STX = np.asarray(fields_STX)
    if fields_STX.ndim != 3:
        raise DataError(f"{path}: fields must have shape (trajectories, frames, cells), got {fields_STX.shape}")
    with tensor_file(path, fields_STX.shape, dt=dt, length=length, attributes=attributes) as tensor:
        for row, fields_TX in enumerate(fields_STX):
            tensor[row] = fields_TX
    return Path(path)


@contextlib.contextmanager
def tensor_file(
    path: str | Path, shape: tuple[int, int, int], *, dt: float, length: float, attributes: dict[str, Any]
) -> Iterator[h5py.Dataset]:
    """The empty dataset `tensor` of a new file in PDEBench's layout, to be filled inside the `with` block.

    The file appears under its name when the block ends without an error, and not at all otherwise.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    _, frames, cells = shape
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            file.attrs.update(attributes)
            file[_X] = ((np.arange(cells) + 0.5) * (length / cells)).astype(np.float32)
            # PDEBench writes the edges of the frames: one time more than there are frames
            file[_T] = (np.arange(frames + 1) * dt).astype(np.float32)
            yield file.create_dataset(_TENSOR, shape, np.float32)
        if path.is_dir():
            raise DataError(f"{path}: is a folder, expected the name of a file")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _block(tensor: h5py.Dataset, frames: int) -> int:
    """How many trajectories are read at once."""
    if tensor.chunks is None:
        return 1
    trajectory_bytes = frames * tensor.shape[2] * tensor.dtype.itemsize
    return max(1, min(tensor.chunks[0], _BLOCK_BYTES // trajectory_bytes))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, expected an HDF5 file") from None
    except OSError as error:
        if path.is_dir():
            raise DataError(f"{path}: is a folder, expected an HDF5 file") from None
        if "truncated" in str(error):
            raise DataError(f"{path}: truncated HDF5 file; copy or download it again") from None
        if "signature" in str(error):
            raise DataError(f"{path}: not an HDF5 file") from None
        raise DataError(f"{path}: cannot be read as HDF5 ({error})") from None
    with file:
        yield file


def _family(path: Path, file: h5py.File) -> str:
    names = set(file)
    if _TENSOR in names and "nu" not in names:
        if not isinstance(file[_TENSOR], h5py.Dataset):
            raise DataError(f"{path}: 'tensor' must be a dataset, it is a group")
        return "tensor"
    other = _other_family(names, file)
    if other is None:
        listed = ", ".join(sorted(names)[:6]) or "nothing"
        raise DataError(f"{path}: dataset 'tensor' expected, the file holds {listed}")
    raise DataError(f"{path}: {other} is not supported yet; supported are 'tensor' files of 1-D fields")


def _other_family(names: set[str], file: h5py.File) -> str | None:
    if {_TENSOR, "nu"} <= names:
        return "Darcy flow (datasets 'tensor' and 'nu')"
    if "density" in names:
        return "compressible flow (dataset 'density')"
    if "velocity" in names:
        return "incompressible flow (dataset 'velocity')"
    if {"t0_fields", "t1_fields"} & names:
        return "The Well (groups 't0_fields', 't1_fields')"
    if "0000" in names or "0" in names:
        return "one group per trajectory (diffusion-reaction, diffusion-sorption, shallow water)"
    return None


def _equation(attributes: dict[str, Any]) -> str | None:
    named = attributes.get("equation")
    if isinstance(named, str):
        return named.lower()
    if "rho" in attributes:
        return "reaction-diffusion"
    if {"nu", "beta"} <= set(attributes):
        return None
    return "advection" if "beta" in attributes else "burgers" if "nu" in attributes else None


def _length(path: Path, file: h5py.File, cells: int, notes: list[str]) -> float:
    if _X not in file:
        notes.append("no x-coordinate: the unit interval assumed")
        return 1.0
    return _rounded(_spacing(path, file, _X, (cells,)) * cells)


def _frame_spacing(path: Path, file: h5py.File, frames: int, notes: list[str]) -> float:
    if _T in file:
        return _rounded(_spacing(path, file, _T, (frames, frames + 1)))
    if frames == 201:
        notes.append("no t-coordinate: PDEBench's 201 frames over 2 time units assumed")
        return 0.01
    raise DataError(f"{path}: dataset 't-coordinate' expected with {frames} or {frames + 1} times, there is none")


def _spacing(path: Path, file: h5py.File, name: str, lengths: tuple[int, ...]) -> float:
    wanted = " or ".join(map(str, lengths))
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or len(dataset) not in lengths or len(dataset) < 2:
        found = dataset.shape if isinstance(dataset, h5py.Dataset) else "a group"
        raise DataError(f"{path}: dataset '{name}' must hold {wanted} numbers, found {found}")
    values = dataset[:].astype(np.float64)
    spacing = (values[-1] - values[0]) / (len(values) - 1)
    # float32 coordinates far from zero keep few digits of a small spacing
    if not (spacing > 0 and np.abs(np.diff(values) - spacing).max() < 0.05 * spacing):
        raise DataError(f"{path}: dataset '{name}' must increase in equal steps")
    return float(spacing)


def _rounded(value: float) -> float:
    """Without the rounding of float32 coordinates: 0.01, not 0.0099999998."""
    return float(f"{value:.6g}")

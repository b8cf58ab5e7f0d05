"""What every family shares: opening a file, its attributes, its coordinates. Refusals are one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from ups.core.errors import DataError
from ups.core.physics import Boundary

X, Y, T = "x-coordinate", "y-coordinate", "t-coordinate"
_BOOKKEEPING = {"seed", "oversample"}
# float32 coordinates far from zero keep few digits of a small spacing
_UNEVEN = 0.05
_SQUARE = 1e-3


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        DataError: missing, unreadable, or not HDF5.
    """
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


def float_dataset(path: Path, file: h5py.Group, name: str, axes: Sequence[str]) -> h5py.Dataset:
    """The dataset `name`, which must hold floats with the named axes, none of them empty."""
    found = file.get(name)
    wanted = f"({', '.join(axes)})"
    if found is None:
        raise DataError(f"{path}: dataset '{name}' of shape {wanted} expected, there is none")
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: '{name}' must be a dataset, it is a group")
    if found.ndim != len(axes) or found.dtype.kind != "f" or 0 in found.shape:
        raise DataError(f"{path}: dataset '{name}' must hold floats of shape {wanted}, got {found.dtype} {found.shape}")
    return found


def parameters_of(file: h5py.File) -> dict[str, float]:
    """The numeric attributes, names in lower case."""
    return {
        name.lower(): float(np.ravel(value)[0])
        for name, value in file.attrs.items()
        if name.lower() not in _BOOKKEEPING and np.size(value) == 1 and np.asarray(value).dtype.kind in "fiu"
    }


def named_equation(file: h5py.File) -> str | None:
    """What the attribute `equation` says, as `ups.core.physics` spells it."""
    named = _text(file, "equation")
    return None if named is None else named.lower().replace("-", "_")


def named_boundary(path: Path, file: h5py.File) -> Boundary | None:
    """What the attribute `boundary` says."""
    named = _text(file, "boundary")
    known = get_args(Boundary)
    if named is not None and named not in known:
        raise DataError(f"{path}: attribute 'boundary' must be one of {', '.join(known)}, got {named!r}")
    return cast("Boundary | None", named)


def first_length(
    path: Path, file: h5py.Group, names: Sequence[str], cells: Sequence[int], assumed: float, notes: list[str]
) -> float:
    """Length of the domain along its first axis, from the coordinates of the cells or `assumed`.

    Raises:
        DataError: coordinates that do not fit the cells, or cells that are not squares.
    """
    known: dict[str, float] = {}
    for name, count in zip(names, cells, strict=True):
        if name in file:
            known[name] = spacing(path, file, name, (count,))
        else:
            notes.append(f"no {name}: a domain of length {assumed:g} assumed")
    spacings = {name: known.get(name, assumed / count) for name, count in zip(names, cells, strict=True)}
    first = spacings[names[0]]
    for name, value in spacings.items():
        if abs(value - first) > _SQUARE * first:
            raise DataError(
                f"{path}: cells must be squares, dataset '{names[0]}' has the spacing {first:g} and '{name}' {value:g}"
            )
    return rounded(first * cells[0])


def spacing(path: Path, file: h5py.Group, name: str, lengths: tuple[int, ...]) -> float:
    """The distance of neighbouring values of a coordinate that must have one of the lengths."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or len(dataset) not in lengths or len(dataset) < 2:
        wanted = " or ".join(map(str, lengths))
        found = dataset.shape if isinstance(dataset, h5py.Dataset) else "a group"
        raise DataError(f"{path}: dataset '{name}' must hold {wanted} numbers, found {found}")
    return even_spacing(path, name, dataset[:].astype(np.float64))


def even_spacing(path: Path, name: str, values_L: NDArray[np.float64]) -> float:
    """The distance of neighbouring values, which must increase in equal steps."""
    step = (values_L[-1] - values_L[0]) / (len(values_L) - 1)
    if not (step > 0 and np.abs(np.diff(values_L) - step).max() < _UNEVEN * step):
        raise DataError(f"{path}: dataset '{name}' must increase in equal steps")
    return float(step)


def rounded(value: float) -> float:
    """Without the rounding of float32 coordinates: 0.01, not 0.0099999998."""
    return float(f"{value:.6g}")


def centres(cells: int, length: float, start: float = 0.0) -> NDArray[np.float32]:
    """Coordinates of the centres of equal cells."""
    return (start + (np.arange(cells) + 0.5) * (length / cells)).astype(np.float32)


def times(count: int, dt: float) -> NDArray[np.float32]:
    return (np.arange(count) * dt).astype(np.float32)


def chunk_rows(dataset: h5py.Dataset) -> int:
    """How many trajectories one chunk of a dataset (S, ...) holds parts of."""
    return 1 if dataset.chunks is None else int(dataset.chunks[0])


def _text(file: h5py.File, name: str) -> str | None:
    value: Any = next((value for key, value in file.attrs.items() if key.lower() == name), None)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) else None

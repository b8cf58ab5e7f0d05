"""Writing files in PDEBench's layouts: a user's own arrays, and what the generators make."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from ups.core.errors import DataError
from ups.core.physics import EQUATIONS, Boundary
from ups.data.pdebench.families import FAMILY_OF
from ups.data.pdebench.family import Family, Write
from ups.data.pdebench.tensor import TENSOR


def write_fields(
    path: str | Path,
    equation: str,
    fields_STXC: ArrayLike,
    *,
    dt: float = 1.0,
    length: float = 1.0,
    boundary: Boundary | None = None,
    **parameters: float,
) -> Path:
    """Write an array (S, T, X.., C) as a file that every command reads, in the layout of its equation.

    Args:
        equation: one of `ups.core.physics.EQUATIONS`; its channels are those of the array. Steady equations have two
            frames, the given coefficient and the solution.
        length: of the domain along its first axis; cells are squares.
        boundary: default the equation's.
        parameters: of the equation, such as `nu=0.01`.

    Raises:
        DataError: unknown equation, missing or foreign parameter, wrong shape, or the file cannot be written.
    """
    if equation not in EQUATIONS:
        raise DataError(f"{path}: equation must be one of {', '.join(EQUATIONS)}, got {equation!r}")
    known = EQUATIONS[equation]
    for name in (*parameters, *known.parameters):
        if name not in known.parameters or name not in {**known.defaults, **parameters}:
            given = ", ".join(parameters) or "none"
            raise DataError(f"{path}: {equation} has the parameters {', '.join(known.parameters)}, got {given}")
    fields_STXC = np.asarray(fields_STXC)
    cells = ", ".join(["cells"] * known.axes)
    frames = "2" if known.steady else "frames"
    channels = len(known.channels)
    if (
        fields_STXC.ndim != 3 + known.axes
        or fields_STXC.shape[-1] != channels
        or (known.steady and fields_STXC.shape[1] != 2)
    ):
        raise DataError(
            f"{path}: fields of {equation} must have shape (trajectories, {frames}, {cells}, {channels}), "
            f"got {fields_STXC.shape}"
        )
    attributes: dict[str, Any] = {**parameters, "equation": equation}
    if boundary is not None:
        attributes["boundary"] = boundary
    family = FAMILY_OF[equation]
    with new_file(path, family, fields_STXC.shape, dt=dt, length=length, attributes=attributes) as write:
        for row, fields_TXC in enumerate(fields_STXC):
            write(row, fields_TXC)
    return Path(path)


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
    with new_file(path, TENSOR, (*fields_STX.shape, 1), dt=dt, length=length, attributes=attributes) as write:
        for row, fields_TX in enumerate(fields_STX):
            write(row, fields_TX[..., None])
    return Path(path)


@contextlib.contextmanager
def new_file(
    path: str | Path, family: Family, shape: tuple[int, ...], *, dt: float, length: float, attributes: Mapping[str, Any]
) -> Iterator[Write]:
    """`write(trajectory, fields_TXC)` into a new file for fields of `shape` (S, T, X.., C).

    The file appears under its name when the block ends without an error, and not at all otherwise.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected the name of a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            file.attrs.update(attributes)
            yield family.create(file, shape, dt, length)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

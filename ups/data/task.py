"""A task: files, strides, horizon, split and normalisation, fixed before anything is trained.

S trajectories, T frames, X.. cells of each axis, C channels, P parameters of the equation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ups.core.errors import DataError
from ups.core.physics import EQUATIONS
from ups.core.runtime import cache_folder
from ups.core.schema import Schema, fingerprint
from ups.core.types import FieldSpec
from ups.data.cache import Array32, file_identity, load_reduced
from ups.data.normalization import Moments, Normalizer
from ups.data.pdebench import FAMILY_OF, FileInfo, check_reduction, inspect, read_trajectories
from ups.data.splits import NAMES, split_trajectories

# raised by hand when the content or the order of cached arrays changes
_LAYOUT = 1


class TaskConfig(Schema):
    """What is learned from which data. A search may not change it."""

    equation: Literal["burgers", "advection", "reaction_diffusion", "diffusion_reaction", "navier_stokes", "darcy"]
    """the equation that the files must hold"""
    files: tuple[str, ...] = Field(min_length=1)
    """PDEBench-format files, relative to the working directory; several are joined, each counts the same"""
    space_stride: int = Field(1, ge=1)
    """keep every n-th cell along every axis; divides the numbers of cells"""
    time_stride: int = Field(1, ge=1)
    """keep every n-th frame; the model's dt is that of the file times n"""
    frames: int | None = Field(None, ge=2)
    """frames after striding; null keeps all; a steady task has its two"""
    train: int = Field(ge=1)
    """training trajectories of each file"""
    validation: int = Field(ge=1)
    """validation trajectories of each file"""
    test: int = Field(ge=1)
    """test trajectories of each file"""
    split_seed: int = Field(0, ge=0, lt=2**31)
    """draws which trajectories train, validate and test"""


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of one part of a task, file after file, each file's in ascending order."""

    fields_STXC: Array32
    """physical units; usually a read-only memory map; steady tasks have two frames, the given field and the solution"""
    parameters_SP: Array32
    file_S: NDArray[np.int64]
    """position of the trajectory's file in the task's list"""
    dt: float
    """physical time between two frames"""

    def __len__(self) -> int:
        return len(self.fields_STXC)


@dataclass(frozen=True)
class Task:
    """Everything that a run needs of its data."""

    config: TaskConfig
    spec: FieldSpec
    train: Trajectories
    validation: Trajectories
    test: Trajectories
    normalizer: Normalizer
    """from the training part alone; of a steady task's solution, with `given` for its given field"""
    fingerprint: str
    """sha256 of the reduced data, its parameters and the split; no path enters"""
    manifest: dict[str, Any]
    """the split as JSON: `seed`; numbers per file in `train`, `validation`, `test`; `available`, `files`"""


def load_task(config: TaskConfig, cache: Path | None = None) -> Task:
    """Read the task's trajectories, from the cache where they were reduced before.

    Args:
        cache: folder of reduced arrays, default $UPS_CACHE or ~/.cache/ups.

    Raises:
        DataError: one line naming the file, see `ups.data.pdebench`; files of another equation, files that
            do not fit together, too few trajectories.
    """
    infos = [inspect(path) for path in config.files]
    spec, frames = _joined(infos, config.equation, config.space_stride, config.time_stride, config.frames)
    _refuse_repeated(config.files)
    parameters_FP = np.stack([_parameters(info, spec) for info in infos])
    # the shortest file decides: the same numbers must exist in all of them
    available = min(info.trajectories for info in infos)
    try:
        split = split_trajectories(
            available,
            train=config.train,
            validation=config.validation,
            test=config.test,
            seed=config.split_seed,
        )
    except DataError as error:
        raise DataError(f"{', '.join(config.files)}: {error}") from None

    parts = [getattr(split, name) for name in NAMES]
    rows = _Rows(infos, spec, config.space_stride, config.time_stride, frames, parts)
    reduced = load_reduced(rows.key(), rows, cache or cache_folder())
    ends = np.cumsum([0] + [len(infos) * len(part) for part in parts])
    train, validation, test = (
        Trajectories(
            reduced.fields_STXC[start:stop],
            np.repeat(parameters_FP, len(part), axis=0),
            np.repeat(np.arange(len(infos)), len(part)),
            spec.dt,
        )
        for start, stop, part in zip(ends[:-1], ends[1:], parts, strict=True)
    )
    content = [reduced.content, split.to_json(), spec.to_json(), parameters_FP.tolist()]
    manifest = {**split.to_json(), "available": available, "files": list(config.files)}
    normalizer = Normalizer.from_json(reduced.facts["normalizer"])
    return Task(config, spec, train, validation, test, normalizer, fingerprint(content), manifest)


def load_file(
    path: str | Path,
    equation: str,
    *,
    space_stride: int = 1,
    time_stride: int = 1,
    frames: int | None = None,
    cache: Path | None = None,
) -> tuple[FieldSpec, Trajectories]:
    """Every trajectory of one file, without a split: what a trained model is evaluated on elsewhere.

    Raises:
        DataError: as `load_task`.
    """
    info = inspect(path)
    spec, frames = _joined([info], equation, space_stride, time_stride, frames)
    rows = _Rows([info], spec, space_stride, time_stride, frames, [range(info.trajectories)])
    reduced = load_reduced(rows.key(), rows, cache or cache_folder())
    count = info.trajectories
    parameters_SP = np.repeat(_parameters(info, spec)[None], count, axis=0)
    return spec, Trajectories(reduced.fields_STXC, parameters_SP, np.zeros(count, np.int64), spec.dt)


class _Rows:
    """The reduced trajectories of all parts, part after part and file after file within a part."""

    def __init__(
        self,
        infos: list[FileInfo],
        spec: FieldSpec,
        space_stride: int,
        time_stride: int,
        frames: int,
        parts: Sequence[Sequence[int]],
    ) -> None:
        """`parts` holds numbers of trajectories; the first part is the one that trains."""
        self.infos = infos
        self.parts = parts
        self.steady = EQUATIONS[spec.equation].steady
        self.reduction = {"space_stride": space_stride, "time_stride": time_stride, "frames": frames}
        self.channels = spec.channels
        self._forget()
        count = len(infos) * sum(len(part) for part in parts)
        self.shape = (count, frames, *spec.cells, spec.channels)

    def key(self) -> str:
        files = [file_identity(info.path) for info in self.infos]
        return fingerprint([_LAYOUT, files, self.reduction, [list(part) for part in self.parts]])

    def _forget(self) -> None:
        self.moments, self.given = Moments(self.channels), Moments(self.channels)

    def __iter__(self) -> Iterator[Array32]:
        self._forget()
        for place, part in enumerate(self.parts):
            for info in self.infos:
                for fields_TXC in read_trajectories(info, trajectories=part, **self.reduction):
                    if place == 0 and self.steady:
                        self.given.add(fields_TXC[0])
                        self.moments.add(fields_TXC[1])
                    elif place == 0:
                        self.moments.add(fields_TXC)
                    yield fields_TXC

    def facts(self) -> dict[str, Any]:
        normalizer = self.moments.normalizer()
        if self.steady:
            normalizer = replace(normalizer, given=self.given.normalizer())
        return {"normalizer": normalizer.to_json()}


def _joined(
    infos: list[FileInfo], equation: str, space_stride: int, time_stride: int, frames: int | None
) -> tuple[FieldSpec, int]:
    """The fields that all files hold after striding, and how many frames of them."""
    known = EQUATIONS[equation]
    first = infos[0]
    counts = [check_reduction(info, space_stride, time_stride, frames) for info in infos]
    for info, count in zip(infos, counts, strict=True):
        _refuse_other_equation(info, equation)
        here, there = _shared(info, equation, count), _shared(first, equation, counts[0])
        if here != there:
            raise DataError(
                f"{info.path}: files of one task must agree in cells, length, dt, frames and boundary, "
                f"got {here}, but {there} in {first.path}"
            )
    spec = FieldSpec(
        equation=equation,
        cells=tuple(cells // space_stride for cells in first.cells),
        channels=first.channels,
        length=first.length,
        dt=float(f"{first.dt * time_stride:.6g}"),
        parameter_names=known.parameters,
        boundary=first.boundary or known.boundary,
    )
    return spec, counts[0]


def _shared(info: FileInfo, equation: str, frames: int) -> tuple[Any, ...]:
    return (info.cells, info.length, info.dt, frames, info.boundary or EQUATIONS[equation].boundary)


def _refuse_other_equation(info: FileInfo, equation: str) -> None:
    known = EQUATIONS[equation]
    if info.equation is not None and info.equation != equation:
        raise DataError(f"{info.path}: holds {info.equation}, the task's equation is {equation}")
    if FAMILY_OF[equation].name != info.family or info.channels != len(known.channels):
        raise DataError(
            f"{info.path}: holds {info.channels} channels on {len(info.cells)} axes in the layout '{info.family}', "
            f"{equation} needs {len(known.channels)} on {known.axes} in '{FAMILY_OF[equation].name}'"
        )


def _parameters(info: FileInfo, spec: FieldSpec) -> Array32:
    """(P) values in the order of the spec's names."""
    known = EQUATIONS[spec.equation]
    for name in spec.parameter_names:
        if name not in info.parameters:
            raise DataError(
                f"{info.path}: attribute '{name}' expected (upper or lower case) with the parameter of "
                f"{spec.equation}, found {', '.join(info.parameters) or 'none'}"
            )
        value = info.parameters[name]
        if not math.isfinite(value) or (value <= 0 and name not in known.signed):
            wanted = "finite" if name in known.signed else "positive"
            raise DataError(f"{info.path}: attribute '{name}' must be a {wanted} number, got {value:g}")
    return np.array([info.parameters[name] for name in spec.parameter_names], np.float32)


def _refuse_repeated(files: Sequence[str]) -> None:
    seen: dict[Path, str] = {}
    for name in files:
        path = Path(name).resolve()
        if path in seen:
            raise DataError(f"{name}: stands twice in the task's files")
        seen[path] = name

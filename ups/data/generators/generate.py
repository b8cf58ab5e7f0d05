"""Generate a file of trajectories in PDEBench's layout, one trajectory at a time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ups.core.errors import ConfigError, DataError
from ups.core.physics import EQUATIONS, Equation
from ups.data.generators.advection import ADVECTION
from ups.data.generators.burgers import BURGERS
from ups.data.generators.darcy import DARCY
from ups.data.generators.diffusion_reaction import DIFFUSION_REACTION
from ups.data.generators.generator import Array64, Generator
from ups.data.generators.navier_stokes import NAVIER_STOKES
from ups.data.generators.reaction_diffusion import REACTION_DIFFUSION
from ups.data.pdebench import FAMILY_OF, Array32, inspect, new_file, read_reduced

GENERATORS: dict[str, Generator] = {
    "burgers": BURGERS,
    "advection": ADVECTION,
    "reaction_diffusion": REACTION_DIFFUSION,
    "diffusion_reaction": DIFFUSION_REACTION,
    "navier_stokes": NAVIER_STOKES,
    "darcy": DARCY,
}

# the attributes as PDEBench spells them
_ATTRIBUTES = {"nu": "Nu"}
_WAITING_PER_THREAD = 4


def generate(
    equation: str,
    out: str | Path,
    *,
    parameters: Mapping[str, float] | None = None,
    trajectories: int | None = None,
    cells: int | None = None,
    frames: int | None = None,
    dt: float | None = None,
    seed: int = 0,
    initial: str | Path | None = None,
    oversample: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write solutions to the HDF5 file `out`, replacing it; it appears when it is complete.

    Trajectory i depends on the seed, i, the parameters and the grid alone. Solves on every core, in threads;
    memory holds a handful of trajectories. What is not given is the equation's own, see `GENERATORS`.

    Args:
        parameters: values of the equation's parameters (Burgers' viscosity is nu/pi).
        trajectories: how many (default the equation's, or all of `initial`).
        cells: cells that are stored along each axis (default the equation's, or those of `initial` over
            `oversample`).
        frames: the initial one included; a steady equation has two, the given coefficient and the solution.
        initial: a file whose first frames are evolved instead of new random fields.
        oversample: solve on that many times the cells and keep one of as many, like striding a finer file.
        on_progress: called with (trajectories done, trajectories wanted).

    Raises:
        ConfigError: unknown equation or parameter, a number out of range, or one that no solution follows from.
        DataError: `initial` cannot be read, does not fit or is `out` itself, or `out` cannot be written.
    """
    if equation not in GENERATORS:
        raise ConfigError(f"equation: must be one of {', '.join(GENERATORS)}, got {equation!r}")
    known, generator = EQUATIONS[equation], GENERATORS[equation]
    values = _parameters(known, generator, parameters or {})
    frames = generator.frames if frames is None else frames
    dt = generator.dt if dt is None else dt
    _check_times(known, frames, dt)
    _check_counts(frames=frames, oversample=oversample, trajectories=trajectories, cells=cells, seed=seed)
    if oversample > 1 and known.boundary != "periodic":
        raise ConfigError(
            f"oversample: keeps the first of {oversample} cells along each axis, which between the walls of "
            f"{equation} is off centre; choose more cells instead"
        )
    attributes: dict[str, Any] = {_ATTRIBUTES.get(name, name): value for name, value in values.items()}
    attributes |= {"equation": equation, "oversample": oversample, **generator.attributes}
    first_frame: Callable[[int], Array64]
    if initial is None:
        trajectories, cells, length = trajectories or generator.trajectories, cells or generator.cells, generator.length
        attributes["seed"] = seed
        first_frame = partial(_draw, generator, seed, cells * oversample)
    else:
        if Path(initial).resolve() == Path(out).resolve():
            raise DataError(f"{out}: is the file that the first frames come from, and would be replaced; write another")
        first_SXC, length = _first_frames(Path(initial), known, trajectories)
        trajectories, given = len(first_SXC), first_SXC.shape[1]
        cells = cells or given // oversample
        if cells * oversample != given:
            raise DataError(f"{initial}: has {given} cells, wanted are {cells} times oversample {oversample}")
        first_frame = first_SXC.__getitem__
    thin = (slice(None), *(slice(None, None, oversample) for _ in range(known.axes)))

    def trajectory(number: int) -> Array32:
        # from what the file will hold: evolving the file's first frames again gives the same file
        fine_XC = first_frame(number).astype(np.float32).astype(np.float64)
        # what overflows is refused below
        with np.errstate(over="ignore", invalid="ignore"):
            fields_TXC = generator.solve(fine_XC, values, dt, frames, length)[thin].astype(np.float32)
        if not np.isfinite(fields_TXC).all():
            told = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise ConfigError(f"{told}: the solution of {equation} does not stay finite on {len(fine_XC)} cells")
        return fields_TXC

    shape = (trajectories, frames, *[cells] * known.axes, len(known.channels))
    with new_file(out, FAMILY_OF[equation], shape, dt=dt, length=length, attributes=attributes) as write:
        for number, fields_TXC in enumerate(_in_threads(trajectory, trajectories)):
            write(number, fields_TXC)
            if on_progress:
                on_progress(number + 1, trajectories)
    return Path(out)


def _draw(generator: Generator, seed: int, cells: int, trajectory: int) -> Array64:
    return generator.draw(seed, trajectory, cells)


def _in_threads(solve: Callable[[int], Array32], count: int) -> Iterator[Array32]:
    """solve(0), solve(1), ... in order, with a bounded number of results waiting."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[Future[Array32]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for number in range(count):
                waiting.append(pool.submit(solve, number))
                if len(waiting) >= threads * _WAITING_PER_THREAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _first_frames(path: Path, equation: Equation, trajectories: int | None) -> tuple[Array64, float]:
    """The first frames (S, X.., C) of a file, and the length of their domain."""
    info = inspect(path)
    wanted = info.trajectories if trajectories is None else trajectories
    if wanted > info.trajectories:
        raise DataError(f"{path}: {wanted} trajectories wanted, the file has {info.trajectories}")
    channels = len(equation.channels)
    if (len(info.cells), info.channels) != (equation.axes, channels) or len(set(info.cells)) > 1:
        raise DataError(
            f"{path}: {equation.name} needs {channels} channels on {equation.axes} axes of as many cells, "
            f"the file has {info.channels} on {' x '.join(map(str, info.cells))} cells"
        )
    first_SXC = read_reduced(path, frames=1, trajectories=range(wanted))[:, 0].astype(np.float64)
    if equation.steady and first_SXC.min() <= 0:
        raise DataError(f"{path}: the coefficient of {equation.name} must be positive, got {first_SXC.min():g}")
    for name in equation.positive:
        smallest = first_SXC[..., equation.channel(name)].min()
        if smallest < 0:
            raise DataError(
                f"{path}: {name} of {equation.name} must not be negative in the first frame, got {smallest:g}"
            )
    return first_SXC, info.length


def _parameters(equation: Equation, generator: Generator, given: Mapping[str, float]) -> dict[str, float]:
    for name, value in given.items():
        if name not in equation.parameters:
            raise ConfigError(
                f"{name}: {equation.name} has no {name}, its parameters are {', '.join(equation.parameters)}"
            )
        signed = name in equation.signed
        if not math.isfinite(value) or not (signed or value > 0):
            raise ConfigError(f"{name}: must be a {'finite' if signed else 'positive'} number, got {value}")
    return {name: float(given.get(name, generator.parameters[name])) for name in equation.parameters}


def _check_times(equation: Equation, frames: int, dt: float) -> None:
    if equation.steady and (frames, dt) != (2, 1.0):
        raise ConfigError(f"frames: {equation.name} is steady: 2 frames, dt 1; got {frames} and {dt:g}")
    if not (math.isfinite(dt) and dt > 0):
        raise ConfigError(f"dt: must be a positive number, got {dt}")


def _check_counts(**counts: int | None) -> None:
    smallest = {"frames": 2, "cells": 4, "oversample": 1, "trajectories": 1, "seed": 0}
    for key, value in counts.items():
        if value is not None and value < smallest[key]:
            raise ConfigError(f"{key}: must be at least {smallest[key]}, got {value}")

"""Generate a file of trajectories in PDEBench's layout, one trajectory at a time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups.core.errors import ConfigError, DataError
from ups.core.physics import EQUATIONS
from ups.data.generators.advection import generate_advection
from ups.data.generators.burgers import generate_burgers
from ups.data.generators.initial import draw_initial
from ups.data.pdebench import inspect, read_reduced, tensor_file

Solve = Callable[[NDArray[np.float64], float, float, int, float], NDArray[np.float64]]

GENERATORS: dict[str, Solve] = {"burgers": generate_burgers, "advection": generate_advection}
"""initial (X), parameter, dt, frames, length -> (T, X)"""

# the attributes as PDEBench spells them
_ATTRIBUTES = {"nu": "Nu", "beta": "beta"}
_WAITING_PER_THREAD = 4


def generate(
    equation: str,
    out: str | Path,
    *,
    parameter: float,
    trajectories: int | None = None,
    cells: int | None = None,
    frames: int = 201,
    dt: float = 0.01,
    seed: int = 0,
    initial: str | Path | None = None,
    oversample: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write solutions to the HDF5 file `out`, replacing it; it appears when it is complete.

    Trajectory i depends on the seed, i, the parameter and the grid alone. Solves on every core, in threads;
    memory holds a handful of trajectories.

    Args:
        parameter: nu of Burgers' equation (the viscosity is nu/pi), beta of advection.
        trajectories: how many (default 1,024, or all of `initial`).
        cells: cells that are stored (default 1,024, or those of `initial` over `oversample`).
        initial: a file whose first frames are evolved instead of new random fields.
        oversample: solve on that many times the cells and keep one of as many, like striding a finer file.
        on_progress: called with (trajectories done, trajectories wanted).

    Raises:
        ConfigError: unknown equation or a number out of range.
        DataError: `initial` cannot be read or does not fit, or `out` cannot be written.
    """
    if equation not in GENERATORS:
        raise ConfigError(f"equation: must be one of {', '.join(GENERATORS)}, got {equation!r}")
    (name,) = EQUATIONS[equation].parameters
    _check_numbers(name, parameter, dt)
    _check_counts(frames=frames, oversample=oversample, trajectories=trajectories, cells=cells, seed=seed)
    first_frame: Callable[[int], NDArray[np.float64]]
    attributes = {_ATTRIBUTES[name]: float(parameter), "equation": equation, "oversample": oversample}
    if initial is None:
        trajectories, cells, length = trajectories or 1024, cells or 1024, 1.0
        attributes["seed"] = seed
        x_X = (np.arange(cells * oversample) + 0.5) / (cells * oversample)
        first_frame = partial(draw_initial, seed, x_X=x_X)
    else:
        first_SX, length = _first_frames(Path(initial), trajectories)
        trajectories, given = first_SX.shape
        cells = cells or given // oversample
        if cells * oversample != given:
            raise DataError(f"{initial}: has {given} cells, wanted are {cells} times oversample {oversample}")
        first_frame = first_SX.__getitem__
    solve = GENERATORS[equation]

    def trajectory(number: int) -> NDArray[np.float32]:
        # from what the file will hold: evolving the file's first frames again gives the same file
        fine_X = first_frame(number).astype(np.float32).astype(np.float64)
        return solve(fine_X, parameter, dt, frames, length)[:, ::oversample].astype(np.float32)

    shape = (trajectories, frames, cells)
    with tensor_file(out, shape, dt=dt, length=length, attributes=attributes) as tensor:
        for number, fields_TX in enumerate(_in_threads(trajectory, trajectories)):
            tensor[number] = fields_TX
            if on_progress:
                on_progress(number + 1, trajectories)
    return Path(out)


def _in_threads(solve: Callable[[int], NDArray[np.float32]], count: int) -> Iterator[NDArray[np.float32]]:
    """solve(0), solve(1), ... in order, with a bounded number of results waiting."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[Future[NDArray[np.float32]]] = deque()
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


def _first_frames(path: Path, trajectories: int | None) -> tuple[NDArray[np.float64], float]:
    info = inspect(path)
    wanted = info.trajectories if trajectories is None else trajectories
    if wanted > info.trajectories:
        raise DataError(f"{path}: {wanted} trajectories wanted, the file has {info.trajectories}")
    fields_STXC = read_reduced(path, frames=1, trajectories=range(wanted))
    return fields_STXC[:, 0, :, 0].astype(np.float64), info.length


def _check_numbers(name: str, parameter: float, dt: float) -> None:
    if not math.isfinite(parameter) or (name == "nu" and parameter <= 0):
        raise ConfigError(f"{name}: must be a {'positive' if name == 'nu' else 'finite'} number, got {parameter}")
    if not (math.isfinite(dt) and dt > 0):
        raise ConfigError(f"dt: must be a positive number, got {dt}")


def _check_counts(**counts: int | None) -> None:
    smallest = {"frames": 2, "cells": 4, "oversample": 1, "trajectories": 1, "seed": 0}
    for key, value in counts.items():
        if value is not None and value < smallest[key]:
            raise ConfigError(f"{key}: must be at least {smallest[key]}, got {value}")

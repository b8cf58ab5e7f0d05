"""The advection equation u_t + beta u_x = 0 on a periodic interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ups.data.generators.finite_volume import evolve
from ups.data.generators.generator import Array64, Generator
from ups.data.generators.initial import draw_field

CFL = 0.4


def solve_advection(
    initial_SX: ArrayLike, beta: float, dt: float, frames: int, *, cfl: float = CFL, length: float = 1.0
) -> Array64:
    """`frames` frames at spacing `dt`, from `initial_SX` on, by finite volumes: (S, T, X) float64."""
    initial_SX = np.asarray(initial_SX, dtype=np.float64)
    assert np.isfinite(initial_SX).all()
    out_STX = np.empty((len(initial_SX), frames, initial_SX.shape[1]))
    for initial_X, out_TX in zip(initial_SX, out_STX, strict=True):
        evolve(initial_X, frames, length / len(initial_X), dt, cfl, 0.0, beta, 0.0, out_TX)
    return out_STX


def _solve(initial_XC: Array64, parameters: Mapping[str, float], dt: float, frames: int, length: float) -> Array64:
    return solve_advection(initial_XC.T, parameters["beta"], dt, frames, length=length)[0, ..., None]


ADVECTION = Generator(draw_field, _solve, {"beta": 0.4})

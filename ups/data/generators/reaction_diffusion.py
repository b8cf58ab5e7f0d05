"""The reaction-diffusion (Fisher's) equation u_t = nu u_xx + rho u (1 - u) on a periodic interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ups.data.generators.generator import Array64, Generator
from ups.data.generators.initial import draw_share

# a step's share of the reaction's and of the domain's diffusion time
_REACTION, _DIFFUSION = 0.02, 0.0005
# diffusion that asks for more flattens the field within a fraction of a frame
_MOST_FOR_DIFFUSION = 100


def solve_reaction_diffusion(
    initial_SX: ArrayLike,
    nu: float,
    rho: float,
    dt: float,
    frames: int,
    *,
    length: float = 1.0,
    steps: int | None = None,
) -> Array64:
    """`frames` frames at spacing `dt`, the first of them `initial_SX`: (S, T, X) float64.

    Strang's splitting (1968) of two parts that are both solved exactly: the reaction by the logistic formula, and
    diffusion by central differences, whose heat kernel is positive. So fields between 0 and 1 stay there, and the
    order is 2 in space and in time.

    Args:
        initial_SX: not negative; below zero the logistic solution ends in finite time.
        steps: of the splitting between two frames, None for as many as the parameters need.
    """
    u_SX = np.array(initial_SX, dtype=np.float64)
    assert np.isfinite(u_SX).all()
    assert u_SX.min() >= 0
    cells = u_SX.shape[1]
    if steps is None:
        wanted = max(dt * rho / _REACTION, min(dt * nu / length**2 / _DIFFUSION, _MOST_FOR_DIFFUSION))
        steps = max(1, math.ceil(wanted * (1 - 1e-12)))
    step = dt / steps
    # eigenvalues of the second central difference
    rates_K = -((2 * cells / length * np.sin(np.pi * np.arange(cells // 2 + 1) / cells)) ** 2)
    decay_K = np.exp(nu * rates_K * step)
    out_STX = np.empty((len(u_SX), frames, cells))
    out_STX[:, 0] = u_SX
    for frame in range(1, frames):
        u_SX = _react(u_SX, rho * step / 2)
        for number in range(steps):
            u_SX = np.fft.irfft(np.fft.rfft(u_SX) * decay_K, n=cells)
            # neighbouring half steps of the reaction are one
            u_SX = _react(u_SX, rho * step if number < steps - 1 else rho * step / 2)
        out_STX[:, frame] = u_SX
    return out_STX


def _react(u_SX: Array64, exponent: float) -> Array64:
    """The logistic equation's exact solution after `exponent` units of its own time."""
    # the transforms leave zeros of the field at -1e-17
    u_SX = np.maximum(u_SX, 0.0)
    return u_SX / (u_SX + (1 - u_SX) * math.exp(-exponent))


def _solve(initial_XC: Array64, parameters: Mapping[str, float], dt: float, frames: int, length: float) -> Array64:
    nu, rho = parameters["nu"], parameters["rho"]
    return solve_reaction_diffusion(initial_XC.T, nu, rho, dt, frames, length=length)[0, ..., None]


REACTION_DIFFUSION = Generator(draw_share, _solve, {"nu": 0.5, "rho": 1.0}, frames=101)

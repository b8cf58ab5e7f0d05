"""The FitzHugh-Nagumo equations on a square without flux through its boundary.

u_t = Du lap u + u - u^3 - k - v and v_t = Dv lap v + u - v. S trajectories, T frames, X, Y cells, C = 2 channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.typing import ArrayLike
from scipy import fft

from ups.data.generators.generator import Array64, Generator

# PDEBench's domain is [-1, 1] along each axis
LENGTH = 2.0

# the longest step, and a step's share of the fastest reaction's time
_STEP, _REACTION = 0.0125, 0.25


def solve_diffusion_reaction(
    initial_SXYC: ArrayLike,
    du: float,
    dv: float,
    k: float,
    dt: float,
    frames: int,
    *,
    length: float = LENGTH,
    steps: int | None = None,
) -> Array64:
    """`frames` frames at spacing `dt`, the first of them `initial_SXYC`: (S, T, X, Y, 2) float64.

    Strang's splitting (1968), order 2 in space and time: diffusion by central differences, exactly in time by the
    cosine transform that they become diagonal in; the reaction cell by cell by the classical Runge-Kutta method.

    Args:
        length: of the domain along its first axis; cells are squares.
        steps: of the splitting between two frames, None for as many as the fields need.
    """
    initial_SXYC = np.asarray(initial_SXYC, dtype=np.float64)
    assert np.isfinite(initial_SXYC).all()
    trajectories, nx, ny, _ = initial_SXYC.shape
    dx = length / nx
    rates_XY = _rates(nx)[:, None] / dx**2 + _rates(ny) / dx**2
    rates_CXY = np.stack([du * rates_XY, dv * rates_XY])
    out_STXYC = np.empty((trajectories, frames, nx, ny, 2))
    for initial_XYC, out_TXYC in zip(initial_SXYC, out_STXYC, strict=True):
        fields_CXY = np.ascontiguousarray(np.moveaxis(initial_XYC, -1, 0))
        out_TXYC[0] = initial_XYC
        for frame in range(1, frames):
            _evolve(fields_CXY, rates_CXY, k, dt, steps)
            out_TXYC[frame] = np.moveaxis(fields_CXY, 0, -1)
    return out_STXYC


def _evolve(fields_CXY: Array64, rates_CXY: Array64, k: float, dt: float, steps: int | None) -> None:
    if steps is None:
        # what the reaction does to large values is to lower them, so the rate of a frame's start holds for all of it
        rate = max(1 / _STEP, (1 + 3 * float(np.abs(fields_CXY[0]).max()) ** 2) / _REACTION)
        steps = max(1, math.ceil(dt * rate * (1 - 1e-12)))
    step = dt / steps
    decay_CXY = np.exp(rates_CXY * step)
    _react(fields_CXY[0], fields_CXY[1], k, step / 2)
    for number in range(steps):
        spectrum_CXY = fft.dctn(fields_CXY, axes=(1, 2), norm="ortho")
        fields_CXY[...] = fft.idctn(spectrum_CXY * decay_CXY, axes=(1, 2), norm="ortho")
        # neighbouring half steps of the reaction are one
        _react(fields_CXY[0], fields_CXY[1], k, step if number < steps - 1 else step / 2)


@njit(nogil=True, cache=True)
def _react(u_XY, v_XY, k, step):
    """One step of the reaction alone, in place."""
    for i in range(u_XY.shape[0]):
        for j in range(u_XY.shape[1]):
            u, v = u_XY[i, j], v_XY[i, j]
            u1, v1 = u - u * u * u - k - v, u - v
            a, b = u + 0.5 * step * u1, v + 0.5 * step * v1
            u2, v2 = a - a * a * a - k - b, a - b
            a, b = u + 0.5 * step * u2, v + 0.5 * step * v2
            u3, v3 = a - a * a * a - k - b, a - b
            a, b = u + step * u3, v + step * v3
            u4, v4 = a - a * a * a - k - b, a - b
            u_XY[i, j] = u + step / 6.0 * (u1 + 2.0 * u2 + 2.0 * u3 + u4)
            v_XY[i, j] = v + step / 6.0 * (v1 + 2.0 * v2 + 2.0 * v3 + v4)


def _rates(cells: int) -> Array64:
    """Eigenvalues of the second difference with mirrored ends, for cells of size 1."""
    return -((2 * np.sin(np.pi * np.arange(cells) / (2 * cells))) ** 2)


def _draw(seed: int, trajectory: int, cells: int) -> Array64:
    """Standard normal noise in every cell (Takamoto et al. 2022, appendix)."""
    return np.random.default_rng([seed, trajectory]).standard_normal((cells, cells, 2))


def _solve(initial_XYC: Array64, parameters: Mapping[str, float], dt: float, frames: int, length: float) -> Array64:
    du, dv, k = (parameters[name] for name in ("du", "dv", "k"))
    return solve_diffusion_reaction(initial_XYC[None], du, dv, k, dt, frames, length=length)[0]


DIFFUSION_REACTION = Generator(
    _draw,
    _solve,
    {"du": 1e-3, "dv": 5e-3, "k": 5e-3},
    trajectories=256,
    cells=64,
    frames=21,
    dt=0.25,
    length=LENGTH,
)

"""Burgers' equation u_t + (u^2/2)_x = (nu/pi) u_xx on a periodic interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ups.data.generators.finite_volume import evolve
from ups.data.generators.generator import Array64, Generator
from ups.data.generators.initial import draw_field

CFL = 0.25

# from here on the explicit step is a thousand times shorter than the frames of 1,024 cells need
_COLE_HOPF_FROM_NU = 0.1
# exp(16) eats 7 of the 16 digits of float64; the result keeps more than float32 holds
_LARGEST_EXPONENT = 16.0


def solve_burgers(
    initial_SX: ArrayLike, nu: float, dt: float, frames: int, *, cfl: float = CFL, length: float = 1.0
) -> Array64:
    """`frames` frames at spacing `dt`, the first of them `initial_SX`, by finite volumes: (S, T, X) float64.

    Second order; the integral of u is kept to rounding. The cost grows as nu X^3 once diffusion limits
    the step.
    """
    initial_SX = np.asarray(initial_SX, dtype=np.float64)
    assert np.isfinite(initial_SX).all()
    out_STX = np.empty((len(initial_SX), frames, initial_SX.shape[1]))
    for initial_X, out_TX in zip(initial_SX, out_STX, strict=True):
        evolve(initial_X, frames, length / len(initial_X), dt, cfl, 1.0, 0.0, nu / np.pi, out_TX)
    return out_STX


def solve_cole_hopf(initial_SX: ArrayLike, nu: float, dt: float, frames: int, *, length: float = 1.0) -> Array64:
    """The exact solution of the same problem, spectrally, by the Cole-Hopf transform: (S, T, X) float64.

    u = -2 (nu/pi) (log phi)_x in the frame that moves with the mean, where phi solves the heat equation
    (Hopf 1950). The potential of u over 2 nu/pi is an exponent: `can_cole_hopf` says if float64 holds it.
    """
    initial_SX = np.asarray(initial_SX, dtype=np.float64)
    cells = initial_SX.shape[1]
    viscosity = nu / np.pi
    mean_S1 = initial_SX.mean(axis=1, keepdims=True)
    exponent_SX = _exponent(initial_SX, nu, length)
    phi_SK = np.fft.rfft(np.exp(exponent_SX - exponent_SX.max(axis=1, keepdims=True)))
    k_K = _wavenumbers(cells, length)
    out_STX = np.empty((len(initial_SX), frames, cells))
    out_STX[:, 0] = initial_SX
    for frame in range(1, frames):
        time = frame * dt
        decayed_SK = phi_SK * np.exp(-viscosity * k_K**2 * time - 1j * k_K * mean_S1 * time)
        slope_SX = np.fft.irfft(1j * k_K * decayed_SK, n=cells)
        out_STX[:, frame] = mean_S1 - 2 * viscosity * slope_SX / np.fft.irfft(decayed_SK, n=cells)
    return out_STX


def can_cole_hopf(initial_SX: ArrayLike, nu: float, length: float = 1.0) -> bool:
    """Whether the exact solution keeps float32's digits: large viscosity beside the size of the field."""
    initial_SX = np.asarray(initial_SX, dtype=np.float64)
    return nu >= _COLE_HOPF_FROM_NU and bool(
        np.ptp(_exponent(initial_SX, nu, length), axis=1).max() < _LARGEST_EXPONENT
    )


def _solve(initial_XC: Array64, parameters: Mapping[str, float], dt: float, frames: int, length: float) -> Array64:
    # exact where diffusion makes explicit steps hopeless
    initial_SX, nu = initial_XC.T, parameters["nu"]
    if can_cole_hopf(initial_SX, nu, length):
        return solve_cole_hopf(initial_SX, nu, dt, frames, length=length)[0, ..., None]
    return solve_burgers(initial_SX, nu, dt, frames, length=length)[0, ..., None]


def _exponent(initial_SX: Array64, nu: float, length: float) -> Array64:
    """-(potential of u - mean) / (2 nu/pi), the logarithm of the initial phi."""
    cells = initial_SX.shape[1]
    k_K = _wavenumbers(cells, length)
    u_SK = np.fft.rfft(initial_SX)
    potential_SK = np.divide(u_SK, 1j * k_K, out=np.zeros_like(u_SK), where=k_K > 0)
    return -np.fft.irfft(potential_SK, n=cells) / (2 * nu / np.pi)


def _wavenumbers(cells: int, length: float) -> Array64:
    return 2 * np.pi / length * np.arange(cells // 2 + 1, dtype=np.float64)


BURGERS = Generator(draw_field, _solve, {"nu": 0.01})

"""PDEBench's random initial conditions of the one-dimensional equations (Takamoto et al. 2022, appendix)."""

from __future__ import annotations

import numpy as np

from ups.data.generators.generator import Array64, cell_centres

_MODES = 4
_DRAWN = 2
_EDGE = 0.01


def draw_initial(seed: int, trajectory: int, x_X: Array64) -> Array64:
    """The initial field of one trajectory at the points `x_X` of [0, 1]: (X,) float64.

    It depends on the seed and the trajectory's number alone: neither on the equation's parameter nor on
    how many trajectories or cells are asked for.
    """
    random = np.random.default_rng([seed, trajectory])
    times_drawn_N = np.bincount(random.integers(0, _MODES, size=_DRAWN), minlength=_MODES)
    wavenumbers_N = 2 * np.pi * np.arange(1, _MODES + 1) * times_drawn_N
    amplitudes_N = random.uniform(0, 1, _MODES)
    phases_N = random.uniform(0, 2 * np.pi, _MODES)
    # a mode that was not drawn has wavenumber zero and adds a constant
    u_X = (amplitudes_N[:, None] * np.sin(wavenumbers_N[:, None] * x_X + phases_N[:, None])).sum(axis=0)

    absolute, windowed = random.uniform(0, 1, 2) < 0.1
    sign = random.choice([-1.0, 1.0])
    left, right = random.uniform(0.1, 0.45), random.uniform(0.55, 0.9)
    if absolute:
        u_X = np.abs(u_X)
    u_X = sign * u_X
    if windowed:
        u_X = u_X * (np.tanh((x_X - left) / _EDGE) - np.tanh((x_X - right) / _EDGE)) / 2
    return u_X


def draw_field(seed: int, trajectory: int, cells: int) -> Array64:
    """`draw_initial` at the centres of equal cells: (X, 1)."""
    return draw_initial(seed, trajectory, cell_centres(cells))[:, None]


def draw_share(seed: int, trajectory: int, cells: int) -> Array64:
    """The same fields for a quantity that lies between 0 and 1: their size, over the largest of the cells: (X, 1)."""
    size_XC = np.abs(draw_field(seed, trajectory, cells))
    return size_XC / size_XC.max()

"""Darcy flow -div(a grad u) = beta on the unit square, u = 0 on its boundary. S samples, X, Y cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse import linalg

from ups.data.generators.generator import Array64, Generator, cell_centres

# PDEBench's two permeabilities
LOW, HIGH = 0.1, 1.0
# the random field has the covariance (-lap + 9)^-2 with free boundaries, as in Li et al. 2021, from so many modes
_MODES, _SHIFT = 24, 9.0


def solve_darcy(coefficient_SXY: ArrayLike, beta: float, *, length: float = 1.0) -> Array64:
    """The solutions u at the cells' centres, (S, X, Y) float64.

    Finite volumes: the flux through a face is that of two resistances in a row, half a cell each, which is the
    harmonic average of the coefficients; at the boundary half a cell alone. Order 2 for a smooth coefficient.

    Args:
        coefficient_SXY: positive.
        length: of the domain along its first axis; cells are squares.
    """
    coefficient_SXY = np.asarray(coefficient_SXY, dtype=np.float64)
    assert (coefficient_SXY > 0).all()
    dx = length / coefficient_SXY.shape[1]
    return np.stack([_solve_one(a_XY, beta * dx**2) for a_XY in coefficient_SXY])


def _solve_one(a_XY: Array64, source: float) -> Array64:
    numbers_XY = np.arange(a_XY.size).reshape(a_XY.shape)
    diagonal_XY = np.zeros_like(a_XY)
    rows, columns, values = [], [], []
    for axis in (0, 1):
        a, number, diagonal = (np.moveaxis(array, axis, 0) for array in (a_XY, numbers_XY, diagonal_XY))
        face = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
        # views: the diagonal collects the faces of both axes
        diagonal[1:] += face
        diagonal[:-1] += face
        diagonal[[0, -1]] += 2 * a[[0, -1]]
        rows += [number[1:].ravel(), number[:-1].ravel()]
        columns += [number[:-1].ravel(), number[1:].ravel()]
        values += [-face.ravel(), -face.ravel()]
    rows.append(numbers_XY.ravel())
    columns.append(numbers_XY.ravel())
    values.append(diagonal_XY.ravel())
    matrix = sparse.csc_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(a_XY.size, a_XY.size)
    )
    # symmetric and diagonally dominant: no pivoting, and an ordering that knows it
    factors = linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(np.full(a_XY.size, source)).reshape(a_XY.shape)


def _draw(seed: int, trajectory: int, cells: int) -> Array64:
    """LOW where a smooth Gaussian random field is negative and HIGH elsewhere: (X, Y, 1)."""
    random = np.random.default_rng([seed, trajectory])
    m = np.arange(_MODES)
    waves_XM = np.cos(np.pi * cell_centres(cells)[:, None] * m)
    size_MM = np.where(m[:, None] + m > 0, 1 / (np.pi**2 * ((m**2)[:, None] + m**2) + _SHIFT), 0)
    # a cosine has half the variance of a constant
    size_MM = size_MM * np.where(m > 0, np.sqrt(2), 1)[:, None] * np.where(m > 0, np.sqrt(2), 1)
    field_XY = waves_XM @ (size_MM * random.standard_normal(size_MM.shape)) @ waves_XM.T
    return np.where(field_XY < 0, LOW, HIGH)[..., None]


def _solve(initial_XYC: Array64, parameters: Mapping[str, float], dt: float, frames: int, length: float) -> Array64:
    assert frames == 2
    solution_XY = solve_darcy(initial_XYC[None, ..., 0], parameters["beta"], length=length)[0]
    return np.stack([initial_XYC, solution_XY[..., None]])


DARCY = Generator(_draw, _solve, {"beta": 1.0}, cells=64, frames=2, dt=1.0)

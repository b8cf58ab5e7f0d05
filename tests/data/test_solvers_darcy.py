"""Laws of the Darcy solver: exact solutions, order of convergence, symmetries, the maximum principle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ups.data.generators import solve_darcy
from ups.data.generators.darcy import DARCY, HIGH, LOW

coefficients = arrays(np.float64, (8, 8), elements=st.sampled_from([LOW, HIGH]))


def centres(cells: int) -> np.ndarray:
    return (np.arange(cells) + 0.5) / cells


def poisson(cells: int, terms: int = 201) -> np.ndarray:
    """-lap u = 1 with u = 0 on the boundary, as a double sine series."""
    n = np.arange(1, terms, 2)
    waves_XN = np.sin(np.pi * n * centres(cells)[:, None])
    amplitudes_NN = 16 / (np.pi**4 * n[:, None] * n * (n[:, None] ** 2 + n**2))
    return waves_XN @ amplitudes_NN @ waves_XN.T


def drawn(number: int = 0, cells: int = 16) -> np.ndarray:
    return DARCY.draw(0, number, cells)[..., 0]


@pytest.mark.parametrize("coefficient", [0.1, 1.0])
def test_a_constant_coefficient_meets_the_sine_series_with_order_two(coefficient):
    errors = []
    for cells in (8, 16, 32):
        solved_XY = solve_darcy(np.full((1, cells, cells), coefficient), 2.0)[0]
        exact_XY = 2.0 / coefficient * poisson(cells)
        errors.append(np.abs(solved_XY - exact_XY).max() / exact_XY.max())
        # highest in the middle
        assert set(np.unravel_index(solved_XY.argmax(), solved_XY.shape)) <= {cells // 2 - 1, cells // 2}
    assert errors[-1] < 2e-3
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2, atol=0.15)


def test_layers_are_resistances_in_a_row():
    # almost one-dimensional: far from the short sides of a long strip, two layers with an exact parabola in each
    cells, long = 16, 256
    a_X = np.where(np.arange(cells) < cells // 2, LOW, HIGH)
    solved_X = solve_darcy(np.repeat(a_X[:, None], long, axis=1)[None], 1.0)[0][:, long // 2]
    # flux a u' = c - x, u(0) = u(1) = 0, u continuous at 1/2
    c = (1 / (8 * LOW) + 3 / (8 * HIGH)) / (1 / (2 * LOW) + 1 / (2 * HIGH))
    x_X = centres(cells)
    left_X = (c * x_X - x_X**2 / 2) / LOW
    right_X = (c * (x_X - 1) - (x_X**2 - 1) / 2) / HIGH
    exact_X = np.where(x_X < 0.5, left_X, right_X)
    # the half cells at the boundary lift a parabola by a constant of second order, and nothing else
    np.testing.assert_allclose(solved_X, exact_X + 1 / (8 * a_X * cells**2), rtol=1e-8)


@settings(max_examples=30)
@given(coefficients)
def test_positive_and_between_the_two_constant_coefficients(a_XY):
    solved_XY, low_XY, high_XY = solve_darcy(np.stack([a_XY, np.full((8, 8), LOW), np.full((8, 8), HIGH)]), 1.0)
    assert solved_XY.min() > 0
    # the compliance (beta, u) falls where a grows
    assert high_XY.sum() <= solved_XY.sum() * (1 + 1e-9)
    assert solved_XY.sum() <= low_XY.sum() * (1 + 1e-9)
    # no maximum of a positive source lies lower than its neighbours, no minimum inside
    inside, around = solved_XY[1:-1, 1:-1], [solved_XY[:-2, 1:-1], solved_XY[2:, 1:-1], solved_XY[1:-1, :-2]]
    assert (inside > np.minimum.reduce([*around, solved_XY[1:-1, 2:]])).all()


def test_symmetries_of_the_square():
    a_XY = drawn()
    solved_XY = solve_darcy(a_XY[None], 1.0)[0]
    for turns in range(4):
        for exchange in (False, True):
            turned_XY = np.rot90(a_XY.T if exchange else a_XY, turns)
            expected_XY = np.rot90(solved_XY.T if exchange else solved_XY, turns)
            np.testing.assert_allclose(solve_darcy(turned_XY[None], 1.0)[0], expected_XY, rtol=1e-10)


def test_the_solution_is_linear_in_the_source_and_inverse_in_the_coefficient():
    a_SXY = drawn()[None]
    np.testing.assert_allclose(solve_darcy(a_SXY, 3.0), 3 * solve_darcy(a_SXY, 1.0), rtol=1e-10)
    np.testing.assert_allclose(solve_darcy(3 * a_SXY, 1.0), solve_darcy(a_SXY, 1.0) / 3, rtol=1e-10)
    np.testing.assert_allclose(solve_darcy(a_SXY, 1.0, length=2.0), 4 * solve_darcy(a_SXY, 1.0), rtol=1e-10)


def test_what_is_produced_leaves_through_the_boundary():
    cells = 16
    a_XY = drawn(cells=cells)
    u_XY = solve_darcy(a_XY[None], 1.0)[0]
    sides = [(a_XY[0], u_XY[0]), (a_XY[-1], u_XY[-1]), (a_XY[:, 0], u_XY[:, 0]), (a_XY[:, -1], u_XY[:, -1])]
    # u falls to zero over half a cell; face length times slope is without dx
    assert sum((2 * a * u).sum() for a, u in sides) == pytest.approx(1.0, rel=1e-10)


def test_drawn_coefficients_have_two_values_and_smooth_borders():
    fields = np.stack([drawn(number, 32) for number in range(60)])
    assert set(np.unique(fields)) == {LOW, HIGH}
    assert (fields == LOW).mean() == pytest.approx(0.5, abs=0.08)
    # neighbours are mostly equal, and neither axis is preferred
    changes = [float((np.diff(fields, axis=axis) != 0).mean()) for axis in (1, 2)]
    assert max(changes) < 0.2
    assert changes[0] == pytest.approx(changes[1], rel=0.2)
    # the same field on every grid
    np.testing.assert_array_equal(drawn(5, 16), drawn(5, 48)[1::3, 1::3])

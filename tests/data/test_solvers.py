"""Laws of the solvers: exact solutions, order of convergence, what the equations keep and what they may only lose."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ups.data.generators import generate, solve_advection, solve_burgers, solve_cole_hopf
from ups.data.generators.burgers import can_cole_hopf

MODES = ((1, 0.9, 0.3), (2, 0.5, 2.0))
MEAN = 0.4


def centres(cells: int, length: float = 1.0) -> np.ndarray:
    return (np.arange(cells) + 0.5) * length / cells


def smooth(x: np.ndarray) -> np.ndarray:
    return MEAN + sum(a * np.sin(2 * np.pi * k * x + phase) for k, a, phase in MODES)


def smooth_averages(cells: int) -> np.ndarray:
    """Averages of `smooth` over cells: what a finite-volume scheme carries."""
    sinc = {k: np.sinc(k / cells) for k, _, _ in MODES}
    return MEAN + sum(a * sinc[k] * np.sin(2 * np.pi * k * centres(cells) + phase) for k, a, phase in MODES)


def exact_burgers(x_X: np.ndarray, time: float, nu: float) -> np.ndarray:
    """Hopf's integral of the solution from `smooth` on the whole line, by quadrature."""
    viscosity = nu / np.pi
    reach = np.linspace(-2.2, 2.2, 12001) * time + np.linspace(-1, 1, 12001) * 8 * np.sqrt(2 * viscosity * time)
    y_XY = x_X[:, None] - reach
    potential = MEAN * y_XY - sum(a / (2 * np.pi * k) * np.cos(2 * np.pi * k * y_XY + phase) for k, a, phase in MODES)
    exponent = -(potential + reach**2 / (2 * time)) / (2 * viscosity)
    weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return (weight * reach).sum(axis=1) / weight.sum(axis=1) / time


def relative(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((prediction - truth) ** 2) / np.mean(truth**2)))


@pytest.mark.parametrize(
    # at nu 0.001 the shock is one of the 1,024 cells wide
    ("nu", "cells", "bound"),
    [(0.001, 1024, 5e-3), (0.01, 512, 1e-3), (0.1, 128, 1e-3), (0.5, 64, 1e-3)],
)
def test_finite_volumes_meet_hopfs_integral(nu, cells, bound):
    dt, frames, stride = 0.25, 4, max(1, cells // 256)
    solved_TX = solve_burgers(smooth(centres(cells))[None], nu, dt, frames)[0, :, ::stride]
    for frame in range(1, frames):
        assert relative(solved_TX[frame], exact_burgers(centres(cells)[::stride], frame * dt, nu)) < bound


@pytest.mark.parametrize("nu", [0.1, 0.3, 4.0])
def test_cole_hopf_meets_hopfs_integral(nu):
    initial_SX = smooth(centres(64))[None]
    assert can_cole_hopf(initial_SX, nu)
    solved_TX = solve_cole_hopf(initial_SX, nu, 0.05, 5)[0]
    for frame in range(1, 5):
        np.testing.assert_allclose(solved_TX[frame], exact_burgers(centres(64), frame * 0.05, nu), atol=1e-7)


def test_cole_hopf_declines_what_float64_cannot_hold():
    initial_SX = smooth(centres(64))[None]
    assert not can_cole_hopf(100 * initial_SX, 0.1)
    assert not can_cole_hopf(initial_SX, 0.01)


@pytest.mark.parametrize(("nu", "time"), [(0.05, 0.1), (0.01, 0.08)])
def test_burgers_converges_with_order_two(nu, time):
    errors = []
    for cells in (64, 128, 256):
        # the truth at the points, integrated over a cell by its second difference
        edges = np.linspace(0, 1, cells + 1)
        middle, border = exact_burgers(centres(cells), time, nu), exact_burgers(edges, time, nu)
        truth = (border[:-1] + 4 * middle + border[1:]) / 6
        errors.append(np.abs(solve_burgers(smooth_averages(cells)[None], nu, time, 2)[0, 1] - truth).mean())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders.min() > 1.8, orders


def test_advection_converges_with_order_two_to_the_shifted_profile():
    beta, time, errors = 0.7, 0.5, []
    for cells in (128, 256, 512):
        solved_X = solve_advection(smooth(centres(cells))[None], beta, time, 2)[0, 1]
        errors.append(np.abs(solved_X - smooth(centres(cells) - beta * time)).mean())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders.min() > 1.8, orders
    assert errors[-1] < 1e-3


def test_advection_runs_both_ways():
    initial_SX = smooth(centres(64))[None]
    forward = solve_advection(initial_SX, 0.4, 0.1, 4)
    backward = solve_advection(initial_SX[:, ::-1], -0.4, 0.1, 4)
    np.testing.assert_allclose(backward[:, :, ::-1], forward, atol=1e-12)


def test_a_jump_that_must_spread_does_spread():
    # -1 | 1 has Roe speed zero: without an entropy fix it stands still and feeds energy into the field
    initial_SX = np.where(centres(64) < 0.5, -1.0, 1.0)[None]
    u_TX = solve_burgers(initial_SX, 1e-6, 0.1, 3)[0]
    inside = np.abs(centres(64) - 0.5) < 0.15
    np.testing.assert_allclose(u_TX[2, inside], (centres(64)[inside] - 0.5) / 0.2, atol=0.05)


rough_fields = st.lists(st.floats(-2, 2, width=32), min_size=24, max_size=24).map(lambda u: np.array(u)[None])


@settings(max_examples=60)
@given(rough_fields, st.sampled_from([0.0005, 0.01, 0.1]))
def test_burgers_keeps_the_mean_and_loses_energy_extremes_and_variation(initial_SX, nu):
    u_TX = solve_burgers(initial_SX, nu, 0.05, 6)[0]
    np.testing.assert_allclose(u_TX.mean(axis=1), initial_SX.mean(), atol=1e-12)
    energy = (u_TX**2).mean(axis=1)
    assert (np.diff(energy) <= 1e-12).all()
    assert u_TX.max() <= initial_SX.max() + 1e-9
    assert u_TX.min() >= initial_SX.min() - 1e-9
    variation = np.abs(np.diff(u_TX, axis=1, append=u_TX[:, :1])).sum(axis=1)
    assert (np.diff(variation) <= 1e-9).all()


@settings(max_examples=60)
@given(rough_fields, st.floats(-2, 2))
def test_advection_keeps_the_mean_and_makes_no_extremes(initial_SX, beta):
    u_TX = solve_advection(initial_SX, beta, 0.05, 6)[0]
    np.testing.assert_allclose(u_TX.mean(axis=1), initial_SX.mean(), atol=1e-12)
    assert u_TX.max() <= initial_SX.max() + 1e-9
    assert u_TX.min() >= initial_SX.min() - 1e-9


@settings(max_examples=30)
@given(rough_fields, st.integers(0, 23))
def test_burgers_knows_no_place_and_no_side(initial_SX, cells):
    u_STX = solve_burgers(initial_SX, 0.02, 0.1, 3)
    moved_STX = solve_burgers(np.roll(initial_SX, cells, axis=1), 0.02, 0.1, 3)
    np.testing.assert_allclose(moved_STX, np.roll(u_STX, cells, axis=2), atol=1e-9)
    mirrored_STX = solve_burgers(-initial_SX[:, ::-1], 0.02, 0.1, 3)
    np.testing.assert_allclose(mirrored_STX, -u_STX[:, :, ::-1], atol=1e-9)


def test_length_and_viscosity_scale_together():
    # x -> 2x, t -> 2t, nu -> 2nu leaves the values of u
    initial_SX = smooth(centres(64))[None]
    np.testing.assert_allclose(
        solve_burgers(initial_SX, 0.02, 0.1, 3),
        solve_burgers(initial_SX, 0.04, 0.2, 3, length=2.0),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        solve_cole_hopf(initial_SX, 0.2, 0.1, 3),
        solve_cole_hopf(initial_SX, 0.4, 0.2, 3, length=2.0),
        atol=1e-12,
    )


@pytest.mark.parametrize("nu", [0.001, 0.01, 0.1])
def test_pdebenchs_own_trajectories_come_out_again(nu, shared_file, tmp_path):
    path = shared_file(nu)
    out = generate("burgers", tmp_path / "again.h5", parameters={"nu": nu}, initial=path)
    with h5py.File(path) as theirs, h5py.File(out) as ours:
        truth, solved = theirs["tensor"][:].astype(np.float64), ours["tensor"][:]
    nrmse_ST = np.sqrt(((solved - truth) ** 2).mean(axis=2) / (truth**2).mean(axis=2))
    assert nrmse_ST.mean() < 0.005

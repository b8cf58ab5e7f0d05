"""Laws of the incompressible solver: an exact vortex, order of convergence, what is kept and what is lost."""

from __future__ import annotations

import numpy as np
import pytest

from ups.data.generators import solve_navier_stokes
from ups.data.generators.navier_stokes import NAVIER_STOKES

NU = 0.01


def centres(cells: int, length: float = 1.0) -> np.ndarray:
    return (np.arange(cells) + 0.5) * length / cells


def vortices(cells: int, time: float = 0.0, wind=(0.0, 0.0), waves: int = 1, nu: float = NU) -> np.ndarray:
    """Taylor and Green's decaying vortices, blown along by a constant wind: an exact solution, (X, Y, 3).

    The scalar is constant along the streamlines, so it decays as they do.
    """
    k = 2 * np.pi * waves
    x_XY, y_XY = np.meshgrid(centres(cells) - wind[0] * time, centres(cells) - wind[1] * time, indexing="ij")
    decay = np.exp(-2 * nu * k**2 * time)
    vx_XY = wind[0] + decay * np.cos(k * x_XY) * np.sin(k * y_XY)
    vy_XY = wind[1] - decay * np.sin(k * x_XY) * np.cos(k * y_XY)
    return np.stack([vx_XY, vy_XY, 2 + decay * np.cos(k * x_XY) * np.cos(k * y_XY)], axis=-1)


def drawn(cells: int = 32, number: int = 0) -> np.ndarray:
    return NAVIER_STOKES.draw(0, number, cells)


def derivative(field_XY: np.ndarray, axis: int) -> np.ndarray:
    """Exact for what the grid resolves, on the unit interval."""
    cells = field_XY.shape[axis]
    k = np.fft.fftfreq(cells, 1 / cells)
    if cells % 2 == 0:
        k[cells // 2] = 0
    k = k.reshape([-1 if place == axis else 1 for place in range(2)])
    return np.fft.ifft(2j * np.pi * k * np.fft.fft(field_XY, axis=axis), axis=axis).real


def divergence(fields_XYC: np.ndarray) -> np.ndarray:
    return derivative(fields_XYC[..., 0], 0) + derivative(fields_XYC[..., 1], 1)


def relative(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((prediction - truth) ** 2) / np.mean(truth**2)))


@pytest.mark.parametrize("waves", [1, 2])
def test_vortices_decay_as_taylor_and_green_found(waves):
    solved_TXYC = solve_navier_stokes(vortices(16, waves=waves)[None], NU, 0.2, 4)[0]
    for frame in range(4):
        np.testing.assert_allclose(solved_TXYC[frame], vortices(16, frame * 0.2, waves=waves), atol=1e-10)


def test_vortices_in_the_wind_converge_with_order_four():
    wind = (0.7, -0.4)
    exact_XYC = vortices(16, 1.0, wind)
    errors = [
        relative(solve_navier_stokes(vortices(16, 0, wind)[None], NU, 1.0, 2, steps=steps)[0, 1], exact_XYC)
        for steps in (8, 16, 32)
    ]
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 4, atol=0.25)
    assert errors[-1] < 3e-5


def test_turning_the_square_turns_the_solution():
    initial = drawn()[None]
    solved = solve_navier_stokes(initial, NU, 0.1, 3)
    exchanged = solve_navier_stokes(initial.swapaxes(1, 2)[..., [1, 0, 2]], NU, 0.1, 3)
    np.testing.assert_allclose(exchanged, solved.swapaxes(2, 3)[..., [1, 0, 2]], atol=1e-10)
    mirrored = solve_navier_stokes(initial[:, ::-1] * [-1, 1, 1], NU, 0.1, 3)
    np.testing.assert_allclose(mirrored, solved[:, :, ::-1] * [-1, 1, 1], atol=1e-10)
    moved = solve_navier_stokes(np.roll(initial, (3, 5), axis=(1, 2)), NU, 0.1, 3)
    np.testing.assert_allclose(moved, np.roll(solved, (3, 5), axis=(2, 3)), atol=1e-10)


def test_a_rectangle_of_two_equal_squares_stays_one():
    square = drawn(16)[None]
    twice = solve_navier_stokes(np.concatenate([square, square], axis=2), NU, 0.05, 3)
    once = solve_navier_stokes(square, NU, 0.05, 3)
    np.testing.assert_allclose(twice, np.concatenate([once, once], axis=3), atol=1e-10)


def test_length_time_and_viscosity_scale_together():
    # x -> 2x, t -> 2t, nu -> 2nu leaves the values of all fields
    initial = drawn()[None]
    once, twice = solve_navier_stokes(initial, NU, 0.1, 3), solve_navier_stokes(initial, 2 * NU, 0.2, 3, length=2.0)
    np.testing.assert_allclose(once, twice, atol=1e-11)


@pytest.mark.parametrize("number", range(3))
def test_what_is_kept_and_what_is_lost(number):
    solved_TXYC = solve_navier_stokes(drawn(number=number)[None], NU, 0.1, 6)[0]
    means_TC = solved_TXYC.mean(axis=(1, 2))
    np.testing.assert_allclose(means_TC, np.broadcast_to([0.0, 0.0, 1.0], (6, 3)), atol=1e-12)
    squares_TC = (solved_TXYC**2).mean(axis=(1, 2))
    energy_T, variance_T = squares_TC[:, :2].sum(axis=1), squares_TC[:, 2]
    assert (np.diff(energy_T) < 0).all()
    assert (np.diff(variance_T) < 0).all()
    for fields_XYC in solved_TXYC:
        assert np.abs(divergence(fields_XYC)).max() < 1e-10
        assert fields_XYC[..., 2].min() > 0.45


def test_energy_is_lost_at_the_rate_of_the_viscosity():
    solved_TXYC = solve_navier_stokes(drawn()[None], NU, 1e-3, 3)[0]
    gradients = [derivative(solved_TXYC[1, ..., channel], axis) for channel in (0, 1) for axis in (0, 1)]
    energy_T = (solved_TXYC[..., :2] ** 2).sum(axis=-1).mean(axis=(1, 2)) / 2
    expected = -NU * sum((gradient**2).mean() for gradient in gradients)
    assert (energy_T[2] - energy_T[0]) / 2e-3 == pytest.approx(expected, rel=1e-3)


def test_only_the_part_without_divergence_is_evolved():
    initial = vortices(16)
    gradient = np.stack([np.cos(2 * np.pi * centres(16))[:, None] * np.ones(16), np.zeros((16, 16))], axis=-1)
    disturbed = initial + np.concatenate([gradient, np.zeros((16, 16, 1))], axis=-1)
    np.testing.assert_allclose(
        solve_navier_stokes(disturbed[None], NU, 0.1, 3, steps=20)[:, 1:],
        solve_navier_stokes(initial[None], NU, 0.1, 3, steps=20)[:, 1:],
        atol=1e-12,
    )


def test_the_step_that_is_chosen_is_short_enough():
    initial = drawn()[None]
    solved, exact = (solve_navier_stokes(initial, 0.004, 0.1, 4, steps=steps) for steps in (None, 100))
    assert relative(solved[:, 3], exact[:, 3]) < 1e-4


def test_initial_fields_are_the_same_on_every_grid():
    # one fine cell in the middle of each three
    np.testing.assert_allclose(drawn(16), drawn(48)[1::3, 1::3], atol=1e-12)
    fields = np.stack([drawn(32, number) for number in range(50)])
    assert (np.abs(fields.mean(axis=(1, 2)) - [0, 0, 1]) < 1e-12).all()
    np.testing.assert_allclose((fields[..., :2] ** 2).sum(axis=-1).mean(axis=(1, 2)), 1, rtol=1e-12)
    assert fields[..., 2].min() >= 0.5
    # neither axis is preferred
    assert (fields[..., 0] ** 2).mean() == pytest.approx(0.5, abs=0.06)


def test_a_field_that_overflows_is_not_hidden():
    with np.errstate(all="ignore"):
        solved = solve_navier_stokes(1e300 * drawn(8)[None], NU, 0.1, 3, steps=1)
    assert np.isnan(solved[0, -1]).all()

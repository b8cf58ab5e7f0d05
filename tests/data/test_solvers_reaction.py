"""Laws of the two reaction solvers: exact solutions, order of convergence, bounds, symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from ups.data.generators import solve_diffusion_reaction, solve_reaction_diffusion
from ups.data.generators.diffusion_reaction import DIFFUSION_REACTION
from ups.data.generators.reaction_diffusion import REACTION_DIFFUSION

shares = arrays(np.float64, (2, 16), elements=st.floats(0, 1, width=32))
DU, DV, K = 1e-3, 5e-3, 5e-3


def centres(cells: int, length: float = 1.0) -> np.ndarray:
    return (np.arange(cells) + 0.5) * length / cells


def orders(errors: list[float]) -> np.ndarray:
    """Between each two of them, of a resolution that doubles."""
    return np.log2(np.array(errors[:-1]) / errors[1:])


def relative(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((prediction - truth) ** 2) / np.mean(truth**2)))


# ---- u_t = nu u_xx + rho u (1 - u)


@pytest.mark.parametrize("steps", [1, None])
def test_equal_values_follow_the_logistic_formula(steps):
    start_S1 = np.array([[0.0], [0.1], [0.7], [1.0], [1.5]])
    solved_STX = solve_reaction_diffusion(np.repeat(start_S1, 8, axis=1), 0.5, 3.0, 0.2, 5, steps=steps)
    growth_T = np.exp(3.0 * 0.2 * np.arange(5))
    exact_ST = start_S1 * growth_T / (1 + start_S1 * (growth_T - 1))
    np.testing.assert_allclose(solved_STX, np.repeat(exact_ST[..., None], 8, axis=2), atol=1e-12)


def test_without_reaction_a_wave_decays_as_it_must():
    errors = []
    for cells in (32, 64, 128):
        wave_X = np.cos(4 * np.pi * centres(cells))
        solved_X = solve_reaction_diffusion(1 + 0.5 * wave_X[None], 0.05, 0.0, 0.1, 4)[0, -1]
        errors.append(np.abs(solved_X - 1 - 0.5 * wave_X * np.exp(-0.05 * (4 * np.pi) ** 2 * 0.3)).max())
    np.testing.assert_allclose(orders(errors), 2, atol=0.1)


def test_reaction_diffusion_converges_with_order_two_in_time():
    start_SX = 0.5 + 0.4 * np.sin(2 * np.pi * centres(32))[None]
    exact_SX = solve_reaction_diffusion(start_SX, 0.02, 4.0, 0.5, 2, steps=1024)[:, -1]
    solved = [solve_reaction_diffusion(start_SX, 0.02, 4.0, 0.5, 2, steps=steps)[:, -1] for steps in (2, 4, 8, 16)]
    np.testing.assert_allclose(orders([relative(u_SX, exact_SX) for u_SX in solved]), 2, atol=0.15)


def test_reaction_diffusion_converges_with_order_two_in_space():
    def solved(cells: int) -> np.ndarray:
        wave_X = 0.5 + 0.4 * np.sin(2 * np.pi * centres(cells))
        return solve_reaction_diffusion(wave_X[None], 0.01, 2.0, 0.5, 2, steps=50)[0, -1]

    fine_X, errors = solved(864), []
    for cells, stride in ((16, 54), (32, 27)):
        # the fine cell in the middle of a coarse one, or the two around it
        middle = (stride - 1) / 2 + stride * np.arange(cells)
        exact_X = (fine_X[np.floor(middle).astype(int)] + fine_X[np.ceil(middle).astype(int)]) / 2
        errors.append(relative(solved(cells), exact_X))
    np.testing.assert_allclose(orders(errors), 2, atol=0.1)


@settings(max_examples=50)
@given(shares, st.floats(0.001, 10), st.floats(0.1, 20))
def test_what_lies_between_zero_and_one_stays_there_and_grows(initial_SX, nu, rho):
    solved_STX = solve_reaction_diffusion(initial_SX, nu, rho, 0.1, 4)
    assert solved_STX.min() >= 0
    assert solved_STX.max() <= 1 + 1e-12
    assert (np.diff(solved_STX.mean(axis=2), axis=1) >= -1e-12).all()


@settings(max_examples=20)
@given(shares, st.integers(0, 15))
def test_reaction_diffusion_knows_no_place_and_no_side(initial_SX, cells):
    solved_STX = solve_reaction_diffusion(initial_SX, 0.1, 5.0, 0.1, 3)
    moved_STX = solve_reaction_diffusion(np.roll(initial_SX, cells, axis=1), 0.1, 5.0, 0.1, 3)
    np.testing.assert_allclose(moved_STX, np.roll(solved_STX, cells, axis=2), atol=1e-11)
    mirrored_STX = solve_reaction_diffusion(initial_SX[:, ::-1], 0.1, 5.0, 0.1, 3)
    np.testing.assert_allclose(mirrored_STX, solved_STX[:, :, ::-1], atol=1e-11)


@pytest.mark.parametrize(("nu", "rho"), [(0.5, 1.0), (5.0, 10.0), (0.01, 10.0)])
def test_generated_reaction_diffusion_is_exact_to_a_part_in_ten_thousand(nu, rho):
    initial_SX = np.stack([REACTION_DIFFUSION.draw(0, number, 64)[:, 0] for number in range(4)])
    solved_STX = solve_reaction_diffusion(initial_SX, nu, rho, 0.01, 11)
    exact_STX = solve_reaction_diffusion(initial_SX, nu, rho, 0.01, 11, steps=2000)
    assert max(relative(solved_STX[:, frame], exact_STX[:, frame]) for frame in range(1, 11)) < 1e-4


# ---- u_t = Du lap u + u - u^3 - k - v, v_t = Dv lap v + u - v


def small_mode(cells: int, du: float, dv: float, time: float) -> tuple[np.ndarray, np.ndarray]:
    """A cosine so small that u^3 is nothing, and what it becomes: (X, Y, 2) both."""
    x_X = centres(cells, 2.0)
    mode_XY = 1e-4 * np.cos(np.pi / 2 * 1 * x_X)[:, None] * np.cos(np.pi / 2 * 2 * x_X)
    square = (np.pi / 2) ** 2 * (1 + 4)
    matrix = np.array([[1 - du * square, -1], [1, -1 - dv * square]])
    amplitudes_C = np.array([1.0, -0.5])
    return mode_XY[..., None] * amplitudes_C, mode_XY[..., None] * (expm(matrix * time) @ amplitudes_C)


@pytest.mark.parametrize(("du", "dv"), [(0.01, 0.03), (2.0, 0.5)])
def test_a_small_cosine_obeys_the_linear_equations(du, dv):
    # with the large diffusivities the reaction is nothing beside diffusion
    errors = []
    for cells in (8, 16, 32):
        initial_XYC, exact_XYC = small_mode(cells, du, dv, 0.2)
        solved_TXYC = solve_diffusion_reaction(initial_XYC[None], du, dv, 0.0, 0.1, 3, steps=100)[0]
        errors.append(relative(solved_TXYC[-1], exact_XYC))
    assert errors[-1] < 5e-3
    np.testing.assert_allclose(orders(errors), 2, atol=0.15)


def test_equal_values_follow_the_ordinary_equations():
    def rate(_, uv):
        return [uv[0] - uv[0] ** 3 - 0.1 - uv[1], uv[0] - uv[1]]

    exact_CT = solve_ivp(rate, (0, 1.0), [1.2, -0.4], t_eval=np.linspace(0, 1, 5), rtol=1e-10, atol=1e-12).y
    solved_TXYC = solve_diffusion_reaction(np.tile([1.2, -0.4], (1, 4, 4, 1)), DU, DV, 0.1, 0.25, 5)[0]
    np.testing.assert_allclose(solved_TXYC, np.tile(exact_CT.T[:, None, None], (1, 4, 4, 1)), atol=1e-7)


def test_the_mean_changes_by_the_reaction_alone():
    initial = DIFFUSION_REACTION.draw(0, 0, 8)[None]
    solved_TXYC = solve_diffusion_reaction(initial, 0.02, 0.05, 0.1, 1e-3, 3)[0]
    u_XY, v_XY = np.moveaxis(solved_TXYC[1], -1, 0)
    rate_C = (solved_TXYC[2] - solved_TXYC[0]).mean(axis=(0, 1)) / 2e-3
    expected_C = [(u_XY - u_XY**3 - 0.1 - v_XY).mean(), (u_XY - v_XY).mean()]
    np.testing.assert_allclose(rate_C, expected_C, rtol=1e-3)


def test_diffusion_reaction_converges_with_order_two_in_time():
    x_X = np.pi / 2 * centres(8, 2.0)
    initial = np.stack([np.cos(x_X)[:, None] * np.cos(2 * x_X), 0.3 + np.cos(x_X)[:, None] * np.ones(8)], axis=-1)[None]
    exact = solve_diffusion_reaction(initial, 0.05, 0.2, K, 1.0, 2, steps=1024)
    solved = [solve_diffusion_reaction(initial, 0.05, 0.2, K, 1.0, 2, steps=steps) for steps in (8, 16, 32)]
    np.testing.assert_allclose(orders([relative(fields[:, 1], exact[:, 1]) for fields in solved]), 2, atol=0.15)


def test_diffusion_reaction_knows_no_side_and_no_axis():
    initial = DIFFUSION_REACTION.draw(0, 0, 8)[None]
    solved = solve_diffusion_reaction(initial, 0.01, 0.02, K, 0.25, 3)
    again = {
        "x reversed": (initial[:, ::-1], solved[:, :, ::-1]),
        "y reversed": (initial[:, :, ::-1], solved[:, :, :, ::-1]),
        "exchanged": (initial.swapaxes(1, 2), solved.swapaxes(2, 3)),
    }
    for name, (start, expected) in again.items():
        result = solve_diffusion_reaction(start, 0.01, 0.02, K, 0.25, 3)
        np.testing.assert_allclose(result, expected, atol=1e-11, err_msg=name)


def test_a_rectangle_is_solved_as_the_square_that_it_is_half_of():
    # even about the middle, so that half of it is a problem of its own
    half = DIFFUSION_REACTION.draw(0, 0, 8)[None, :, :4]
    whole = np.concatenate([half, half[:, :, ::-1]], axis=2)
    np.testing.assert_allclose(
        solve_diffusion_reaction(half, 0.05, 0.1, K, 0.25, 3),
        solve_diffusion_reaction(whole, 0.05, 0.1, K, 0.25, 3)[:, :, :, :4],
        atol=1e-11,
    )


def test_generated_diffusion_reaction_is_exact_to_a_part_in_ten_thousand():
    initial = np.stack([DIFFUSION_REACTION.draw(0, number, 16) for number in range(2)])
    solved = solve_diffusion_reaction(initial, DU, DV, K, 0.25, 5)
    exact = solve_diffusion_reaction(initial, DU, DV, K, 0.25, 5, steps=400)
    assert max(relative(solved[:, frame], exact[:, frame]) for frame in range(1, 5)) < 1e-4


def test_noise_is_standard_normal_and_its_own_in_every_trajectory():
    first, second = (DIFFUSION_REACTION.draw(3, number, 64) for number in range(2))
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 1) < 0.05
    assert abs((first * second).mean()) < 0.05
    np.testing.assert_array_equal(first, DIFFUSION_REACTION.draw(3, 0, 64))

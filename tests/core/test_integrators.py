"""The equations integrated over a frame: every sample on its own, and exact where there is an exact answer.

B samples, X cells.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ups.core.integrators import INTEGRATORS, integrate_advection, integrate_burgers
from ups.core.physics import EQUATIONS
from ups.data.generators import solve_cole_hopf

few = settings(max_examples=25, deadline=None)
every_equation = pytest.mark.parametrize("equation", INTEGRATORS)


def waves(samples: int = 3, cells: int = 64, length: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, X) sums of the three longest waves, at cell centres."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    size, phase = torch.rand(2, samples, 3, 1, generator=draw, dtype=torch.float64)
    k = torch.arange(1, 4)[:, None]
    return (size * torch.sin(2 * math.pi * (k * x + phase))).sum(1).to(dtype)


@every_equation
def test_what_can_be_integrated_is_periodic_on_a_line_and_has_one_parameter(equation: str) -> None:
    """So that the first parameter and the field without its channel are the whole problem."""
    known = EQUATIONS[equation]
    assert (known.axes, known.channels, len(known.parameters)) == (1, ("u",), 1)
    assert known.boundary == "periodic"


@every_equation
def test_a_companion_changes_nothing(equation: str) -> None:
    """A fast one takes more substeps; one that is not finite none at all."""
    field, parameter = waves(), torch.tensor([0.01, 0.1, 0.3])
    alone = torch.cat([INTEGRATORS[equation](field[i : i + 1], parameter[i : i + 1], 0.05, 1.0) for i in range(3)])
    for strange in (40 * field[:1], torch.full_like(field[:1], math.nan), 1e25 * field[:1]):
        mixed = torch.cat([field[:2], strange, field[2:]])
        found = INTEGRATORS[equation](mixed, parameter[[0, 1, 0, 2]], 0.05, 1.0)
        torch.testing.assert_close(found[[0, 1, 3]], alone, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_integrated_is_nan_and_nothing_else_is() -> None:
    field = waves(samples=6)
    field[1, 7] = math.nan
    field[2, 3] = math.inf
    field[3] *= 1e9
    field[4] *= 1e38
    solved = integrate_burgers(field, torch.full((6,), 0.01), 0.05, 1.0)
    finite = solved.isfinite()
    assert finite.all(1).tolist() == [True, False, False, False, False, True]
    assert not bool(finite[1:5].any())


@few
@given(
    equation=st.sampled_from(list(INTEGRATORS)),
    shift=st.integers(0, 63),
    length=st.sampled_from([0.5, 2.0, 2 * math.pi]),
)
def test_integration_commutes_with_shifts_and_with_the_unit_of_length(equation: str, shift: int, length: float) -> None:
    field = waves(dtype=torch.float64)
    parameter = torch.full((3,), 0.02, dtype=torch.float64)
    integrate = INTEGRATORS[equation]
    solved = integrate(field, parameter, 0.05, 1.0)
    torch.testing.assert_close(integrate(field.roll(shift, 1), parameter, 0.05, 1.0), solved.roll(shift, 1))
    # x -> L x takes u -> L u and nu -> L^2 nu; an advection speed is a velocity
    unit = length**2 if equation == "burgers" else length
    scaled = integrate(length * field, unit * parameter, 0.05, length)
    torch.testing.assert_close(scaled, length * solved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("nu", "limit"), [(0.1, 2e-4), (1.0, 1e-4)])
def test_burgers_approaches_the_exact_solution(nu: float, limit: float) -> None:
    """Cole-Hopf's, with an error that falls at least three times when the cells are halved."""
    errors = []
    for cells in (128, 256):
        field = waves(cells=cells, dtype=torch.float64)
        exact = torch.from_numpy(solve_cole_hopf(field.numpy(), nu, 0.05, 2)[:, 1])
        found = integrate_burgers(field, torch.full((3,), nu, dtype=torch.float64), 0.05, 1.0)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[1] < limit
    assert errors[1] < errors[0] / 3


@few
@given(nu=st.sampled_from([0.0, 0.001, 0.01, 1.0]), seed=st.integers(0, 1000), rough=st.floats(0, 2))
def test_burgers_keeps_its_laws_for_any_field(nu: float, seed: int, rough: float) -> None:
    """The mean is conserved; energy, extremes and variation do not grow."""
    noise = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    field = waves(dtype=torch.float64) + rough * noise
    solved = integrate_burgers(field, torch.full((3,), nu, dtype=torch.float64), 0.02, 1.0)
    torch.testing.assert_close(solved.mean(1), field.mean(1), rtol=0, atol=1e-10)
    assert bool((solved.square().mean(1) <= field.square().mean(1) * (1 + 1e-9)).all())
    if nu == 0.0:
        # the exact diffusion of a sampled kink rings
        assert bool((solved.amax(1) <= field.amax(1) + 1e-9).all())
        assert bool((solved.amin(1) >= field.amin(1) - 1e-9).all())
        before, after = ((each - each.roll(1, 1)).abs().sum(1) for each in (field, solved))
        assert bool((after <= before * (1 + 1e-9)).all())


@few
@given(beta=st.floats(-3, 3), wave=st.integers(1, 31), phase=st.floats(0, 1))
def test_advection_moves_a_sine_exactly(beta: float, wave: int, phase: float) -> None:
    length, dt = 2.0, 0.3
    x = (torch.arange(64, dtype=torch.float64) + 0.5) / 64 * length

    def at(time: float) -> Tensor:
        return torch.sin(2 * math.pi * wave * (x - beta * time) / length + phase)[None]

    found = integrate_advection(at(0.0), torch.tensor([beta], dtype=torch.float64), dt, length)
    np.testing.assert_allclose(found, at(dt), atol=1e-5)


@few
@given(beta=st.floats(-3, 3), dt=st.floats(0, 1))
def test_advection_there_and_back_is_the_identity(beta: float, dt: float) -> None:
    field, speed = waves(), torch.full((3,), beta)
    back = integrate_advection(integrate_advection(field, speed, dt, 1.0), -speed, dt, 1.0)
    torch.testing.assert_close(back, field, rtol=0, atol=1e-5)


def test_advection_by_whole_cells_is_a_roll() -> None:
    field = waves(cells=50)
    speed = torch.tensor([0.02, 0.04, -0.06])
    found = integrate_advection(field, speed, 1.0, 1.0)
    rolled = torch.stack([field[0].roll(1), field[1].roll(2), field[2].roll(-3)])
    torch.testing.assert_close(found, rolled, rtol=0, atol=1e-5)

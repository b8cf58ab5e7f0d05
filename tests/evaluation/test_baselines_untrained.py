"""Persistence, the initial mean, and the coarse solver with its grid transfer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes_evaluation import DARCY, NU, smooth_fields, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ups.baselines.coarse_solver import CoarseSolver, prolong, restrict
from ups.baselines.persistence import InitialMean, MeanSolution, Persistence
from ups.core.measures import rollout_nrmse
from ups.core.types import FieldSpec
from ups.data.generators import solve_advection, solve_burgers
from ups.evaluation.rows import rows_of

PARAMETERS = torch.full((4, 1), NU)


GRIDS = pytest.mark.parametrize("grid", [(32,), (8, 6)], ids=["line", "plane"])


@GRIDS
def test_persistence_repeats_the_given_frame_exactly(grid):
    given_frame = torch.randn(4, *grid, 2)
    frames = Persistence(spec_of()).rollout(given_frame, PARAMETERS, 5)
    assert frames.shape == (4, 5, *grid, 2)
    assert all(torch.equal(frames[:, step], given_frame) for step in range(5))


@GRIDS
def test_initial_mean_is_constant_in_space_and_keeps_each_samples_mean(grid):
    given_frame = torch.randn(4, *grid, 2)
    frames = InitialMean(spec_of()).rollout(given_frame, PARAMETERS, 5)
    assert frames.shape == (4, 5, *grid, 2)
    mean = given_frame.flatten(1, -2).mean(dim=1)
    torch.testing.assert_close(frames.flatten(2, -2), mean[:, None, None].expand(4, 5, math.prod(grid), 2))


def test_the_mean_solution_does_not_look_at_what_is_given():
    given_field = torch.randn(4, 16, 16, 1)
    predictor = MeanSolution(DARCY, (0.25,))
    frames = predictor.rollout(given_field, PARAMETERS, 1)
    assert torch.equal(frames, torch.full((4, 1, 16, 16, 1), 0.25))


@given(arrays(np.float64, (2, 16), elements=st.floats(-10, 10)), st.sampled_from([16, 32, 64]))
@settings(max_examples=30, deadline=None)
def test_restriction_undoes_prolongation(coarse, cells):
    fine = prolong(coarse, cells)
    assert fine.shape == (2, cells)
    np.testing.assert_allclose(restrict(fine, 16), coarse, atol=1e-9)


def test_prolongation_of_a_wave_converges_with_fourth_order():
    def error(coarse):
        edges = 2 * np.pi * np.arange(4 * coarse + 1) / (4 * coarse)
        fine = np.diff(-np.cos(edges)) / np.diff(edges)
        return np.abs(prolong(restrict(fine, coarse), 4 * coarse) - fine).max()

    # the derivative of a spline of the integral: one order below the spline's four
    assert math.log2(error(16) / error(32)) > 2.9


@pytest.mark.parametrize("cells", [8, 32])
def test_coarse_solver_beats_persistence_and_the_mean_on_smooth_burgers(cells):
    fields = torch.from_numpy(smooth_fields(samples=4, frames=6)).float().unsqueeze(-1)
    given_frame, truth = fields[:, 0], fields[:, 1:]
    spec = spec_of()
    solver = rollout_nrmse(CoarseSolver(spec, cells, solve_burgers).rollout(given_frame, PARAMETERS, 5), truth)
    persistence = rollout_nrmse(Persistence(spec).rollout(given_frame, PARAMETERS, 5), truth)
    mean = rollout_nrmse(InitialMean(spec).rollout(given_frame, PARAMETERS, 5), truth)
    assert solver < 0.5 * min(persistence, mean)


def test_a_finer_coarse_solver_is_closer():
    fields = torch.from_numpy(smooth_fields(samples=4, frames=6)).float().unsqueeze(-1)
    errors = [
        rollout_nrmse(CoarseSolver(spec_of(), cells, solve_burgers).rollout(fields[:, 0], PARAMETERS, 5), fields[:, 1:])
        for cells in (8, 16, 32)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_coarse_solver_keeps_the_mean_and_the_given_type():
    given_frame = torch.randn(4, 32, 1)
    frames = CoarseSolver(spec_of(), 8, solve_burgers).rollout(given_frame, PARAMETERS, 5)
    assert frames.dtype == given_frame.dtype
    torch.testing.assert_close(frames.mean(dim=2), given_frame.mean(dim=1)[:, None].expand(4, 5, 1))


def test_each_sample_is_solved_with_its_own_parameter():
    spec = spec_of(equation="advection", parameter="beta")
    given_frame = torch.sin(2 * torch.pi * torch.arange(32) / 32).reshape(1, 32, 1).repeat(3, 1, 1)
    speeds = torch.tensor([[0.1], [0.4], [0.1]])
    together = CoarseSolver(spec, 32, solve_advection).rollout(given_frame, speeds, 4)
    alone = [CoarseSolver(spec, 32, solve_advection).rollout(given_frame[:1], speeds[i : i + 1], 4) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.allclose(together[0], together[1])


def test_a_longer_domain_is_a_slower_one():
    """The wave passes a domain of twice the length in twice the time."""
    x = (torch.arange(32) + 0.5) / 32
    wave = torch.sin(2 * torch.pi * x).reshape(1, 32, 1)
    short = spec_of(equation="advection", parameter="beta", dt=0.1)
    long = replace(short, length=2.0, dt=0.2)
    here, there = (CoarseSolver(each, 32, solve_advection).rollout(wave, torch.ones(1, 1), 3) for each in (short, long))
    torch.testing.assert_close(here, there)


def test_all_parameters_reach_the_solver():
    spec = FieldSpec("reaction_diffusion", (32,), 1, 1.0, 0.5, ("nu", "rho"))
    half = torch.full((3, 32, 1), 0.5)
    parameters = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.5, 1.0]])
    (solver,) = (row.predictor for row in rows_of(Persistence(spec), 3, None) if row.name == "coarse_solver_rollout")
    frames = solver.rollout(half, parameters, 2)[:, :, 0, 0]
    time = torch.tensor([0.5, 1.0])
    exact = torch.sigmoid(parameters[:, 1:] * time)  # a field constant in space only reacts
    torch.testing.assert_close(frames, exact)
    slightly_below = half.clone()
    slightly_below[:, 3] = -1e-7
    assert solver.rollout(slightly_below, parameters, 2).isfinite().all()


def test_frames_are_dt_apart_and_start_after_the_given_one():
    spec = spec_of(cells=64, dt=0.25, equation="advection", parameter="beta")
    x = (torch.arange(64) + 0.5) / 64
    wave = torch.sin(2 * torch.pi * x)
    frames = CoarseSolver(spec, 64, solve_advection).rollout(wave.reshape(1, 64, 1), torch.ones(1, 1), 4)[0, :, :, 0]
    for step in range(4):  # a quarter turn each
        torch.testing.assert_close(frames[step], wave.roll(16 * (step + 1)), atol=0.05, rtol=0)

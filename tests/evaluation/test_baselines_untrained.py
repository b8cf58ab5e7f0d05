"""Persistence, the initial mean, and the coarse solver with its grid transfer."""

import math

import numpy as np
import pytest
import torch
from fakes_evaluation import NU, smooth_fields, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ups.baselines.coarse_solver import CoarseSolver, prolong, restrict
from ups.baselines.persistence import InitialMean, Persistence
from ups.core.measures import rollout_nrmse
from ups.data.generators import solve_advection, solve_burgers

PARAMETERS = torch.full((4, 1), NU)


def test_persistence_repeats_the_given_frame_exactly():
    given_frame = torch.randn(4, 32, 2)
    frames = Persistence(spec_of()).rollout(given_frame, PARAMETERS, 5)
    assert frames.shape == (4, 5, 32, 2)
    assert all(torch.equal(frames[:, step], given_frame) for step in range(5))


def test_initial_mean_is_constant_in_space_and_keeps_each_samples_mean():
    given_frame = torch.randn(4, 32, 2)
    frames = InitialMean(spec_of()).rollout(given_frame, PARAMETERS, 5)
    assert frames.shape == (4, 5, 32, 2)
    torch.testing.assert_close(frames, given_frame.mean(dim=1)[:, None, None].expand(4, 5, 32, 2))


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


def test_frames_are_dt_apart_and_start_after_the_given_one():
    spec = spec_of(cells=64, dt=0.25, equation="advection", parameter="beta")
    x = (torch.arange(64) + 0.5) / 64
    wave = torch.sin(2 * torch.pi * x)
    frames = CoarseSolver(spec, 64, solve_advection).rollout(wave.reshape(1, 64, 1), torch.ones(1, 1), 4)[0, :, :, 0]
    for step in range(4):  # a quarter turn each
        torch.testing.assert_close(frames[step], wave.roll(16 * (step + 1)), atol=0.05, rtol=0)

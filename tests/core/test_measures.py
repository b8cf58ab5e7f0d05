"""Laws of the measures, slow references for each, and PDEBench's order of reduction."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ups.core import measures

SHAPE = (3, 4, 30, 2)
FLAT = (2, 3, 8, 6, 2)
"""(B, T, X, Y, C)"""


def fields(shape=SHAPE):
    # numbers whose squares stay normal: the laws are exact up to rounding there
    sizes = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
    return arrays(np.float64, shape, elements=sizes).map(torch.from_numpy)


def random_pair(seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(shape, generator=generator, dtype=torch.float64)
    return truth + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64), truth


def slow(per_field, prediction, truth):
    """`per_field(p, u)` of the cells of every sample, frame and channel, one after the other."""
    out = np.empty((*prediction.shape[:2], prediction.shape[-1]))
    for b, t, c in np.ndindex(*out.shape):
        out[b, t, c] = per_field(prediction[b, t, ..., c].flatten().tolist(), truth[b, t, ..., c].flatten().tolist())
    return out


def slow_rmse(p, u):
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(p, u, strict=True)) / len(u))


def slow_nrmse(p, u):
    return slow_rmse(p, u) / math.sqrt(math.fsum(b * b for b in u) / len(u))


def slow_vrmse(p, u):
    return math.sqrt(slow_rmse(p, u) ** 2 / (np.var(u) + 1e-7))


REFERENCES = {
    measures.rmse: slow_rmse,
    measures.nrmse: slow_nrmse,
    measures.vrmse: slow_vrmse,
    measures.max_error: lambda p, u: max(abs(a - b) for a, b in zip(p, u, strict=True)),
    measures.pearson: lambda p, u: np.corrcoef(p, u)[0, 1],
    measures.mass_error: lambda p, u: (math.fsum(p) - math.fsum(u)) / len(u),
}


@pytest.mark.parametrize("shape", [SHAPE, FLAT])
@pytest.mark.parametrize("measure", REFERENCES, ids=lambda measure: measure.__name__)
def test_measure_equals_its_slow_reference(measure, shape):
    prediction, truth = random_pair(shape=shape)
    np.testing.assert_allclose(measure(prediction, truth), slow(REFERENCES[measure], prediction, truth), rtol=1e-12)


def test_boundary_error_is_that_of_both_ends():
    prediction, truth = random_pair()
    ends = (prediction - truth).numpy()[:, :, [0, -1]]
    np.testing.assert_allclose(measures.boundary_rmse(prediction, truth), np.sqrt((ends**2).mean(axis=2)), rtol=1e-12)


def test_boundary_error_in_the_plane_counts_each_side_and_so_corners_twice():
    prediction, truth = random_pair(shape=FLAT)
    error = (prediction - truth).numpy()
    sides = error[:, :, 0], error[:, :, -1], error[:, :, :, 0], error[:, :, :, -1]
    total = sum((side**2).sum(axis=2) for side in sides)
    expected = np.sqrt(total / (2 * 8 + 2 * 6))
    np.testing.assert_allclose(measures.boundary_rmse(prediction, truth), expected, rtol=1e-12)
    inside = truth.clone()
    inside[:, :, 1:-1, 1:-1] += 1
    assert measures.boundary_rmse(inside, truth).abs().max() == 0


@given(fields())
@settings(max_examples=25, deadline=None)
def test_nrmse_is_zero_for_equal_and_one_for_zero(truth):
    assert measures.nrmse(truth, truth).abs().max() == 0
    torch.testing.assert_close(measures.nrmse(torch.zeros_like(truth), truth), torch.ones(3, 4, 2, dtype=torch.float64))


@given(fields(), fields(), st.floats(1e-3, 1e3), st.integers(0, 29))
@settings(max_examples=25, deadline=None)
def test_nrmse_does_not_see_units_or_the_origin_of_space(prediction, truth, scale, shift):
    here = measures.nrmse(prediction, truth)
    torch.testing.assert_close(measures.nrmse(-scale * prediction, -scale * truth), here)
    torch.testing.assert_close(measures.nrmse(prediction.roll(shift, 2), truth.roll(shift, 2)), here)


@given(fields(), fields(), fields())
@settings(max_examples=25, deadline=None)
def test_rmse_obeys_the_triangle_inequality(a, b, c):
    assert (measures.rmse(a, c) <= measures.rmse(a, b) + measures.rmse(b, c) + 1e-9).all()


@given(fields(), st.floats(0.01, 100), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_pearson_sees_shape_alone(truth, scale, offset):
    varies = truth.std(dim=2) > 1e-2
    correlation = measures.pearson(scale * truth + offset, truth)
    torch.testing.assert_close(correlation[varies], torch.ones_like(correlation[varies]))
    torch.testing.assert_close(measures.pearson(-truth, truth)[varies], -correlation[varies])


def test_pearson_of_constant_fields():
    flat, wave = torch.ones(1, 1, 8, 1), torch.arange(8.0).reshape(1, 1, 8, 1)
    assert measures.pearson(flat, flat + 1).item() == 1
    assert measures.pearson(flat, wave).item() == 0
    assert measures.pearson(wave, flat).item() == 0


def test_vrmse_of_the_spatial_mean_is_one():
    _, truth = random_pair()
    mean = truth.mean(dim=2, keepdim=True).expand_as(truth)
    torch.testing.assert_close(measures.vrmse(mean, truth), torch.ones(3, 4, 2, dtype=torch.float64), rtol=1e-6, atol=0)


def test_parseval_ties_the_spectrum_to_the_rmse():
    prediction, truth = random_pair()
    power = measures.spectral_error_power(prediction, truth)
    # of 30 cells, modes 1..14 stand for two, 0 and 15 for themselves
    total = 2 * power.sum(dim=2) - power[:, :, 0] - power[:, :, -1]
    torch.testing.assert_close(total, measures.rmse(prediction, truth).square())


@pytest.mark.parametrize(("mode", "band"), [(0, 0), (3, 0), (4, 1), (11, 1), (12, 2), (15, 2)])
def test_a_wave_lands_in_its_band(mode, band):
    x = torch.arange(32, dtype=torch.float64) / 32
    wave = torch.cos(2 * torch.pi * mode * x).reshape(1, 1, 32, 1)
    bands = measures.frmse(wave, torch.zeros_like(wave))[0, :, 0]
    modes_in_band = (4, 8, 5)[band]
    amplitude = 1.0 if mode == 0 else 0.5
    expected = torch.zeros(3, dtype=torch.float64)
    expected[band] = amplitude / modes_in_band
    torch.testing.assert_close(bands, expected, atol=1e-12, rtol=0)


def test_few_cells_have_no_high_band():
    prediction, truth = random_pair(shape=(2, 3, 16, 1))
    assert measures.frmse(prediction, truth).shape == (3, 2, 1)


def test_conserved_error_takes_the_root_after_the_batch_mean():
    truth = torch.zeros(2, 1, 10, 1)
    prediction = torch.stack([torch.full((1, 10, 1), 3.0), torch.full((1, 10, 1), -1.0)])
    # the root of each sample first would give 2, the mean first and then a root would give 1
    torch.testing.assert_close(measures.crmse(prediction, truth), torch.tensor([[math.sqrt(5)]]))


def test_fourier_error_takes_the_root_after_the_batch_mean_and_before_the_band_mean():
    prediction, truth = random_pair(seed=3)
    error = np.fft.rfft((prediction - truth).numpy(), axis=2) / SHAPE[2]
    expected = np.sqrt((np.abs(error) ** 2).mean(axis=0))
    expected = np.stack([expected[:, a:b].mean(axis=1) for a, b in ((0, 4), (4, 12), (12, None))], axis=1)
    np.testing.assert_allclose(measures.frmse(prediction, truth), expected, rtol=1e-12)
    root_first = np.abs(error).mean(axis=0)[:, :4].mean(axis=1)
    root_last = np.sqrt((np.abs(error) ** 2).mean(axis=0)[:, :4].mean(axis=1))
    assert not np.allclose(expected[:, 0], root_first, rtol=1e-3)
    assert not np.allclose(expected[:, 0], root_last, rtol=1e-3)


def test_maximum_is_over_the_batch():
    prediction, truth = random_pair(seed=4)
    expected = (prediction - truth).abs().numpy().max(axis=(0, 2))
    np.testing.assert_allclose(measures.max_over_batch(prediction, truth), expected)


def test_the_one_score_is_the_mean_of_ratios():
    prediction, truth = random_pair(seed=5)
    expected = slow(slow_nrmse, prediction, truth).mean()
    assert measures.rollout_nrmse(prediction, truth) == pytest.approx(expected, rel=1e-12)
    pooled = (prediction - truth).norm() / truth.norm()
    assert abs(expected - float(pooled)) > 1e-4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_one_score_of_what_is_not_finite_is_infinite(bad):
    prediction, truth = random_pair()
    prediction[0, 0, 0, 0] = bad
    assert measures.rollout_nrmse(prediction, truth) == math.inf


def test_zero_truth_does_not_make_nan():
    zero = torch.zeros(1, 1, 8, 1)
    assert measures.nrmse(zero, zero).item() == 0
    assert measures.nrmse(zero + 1, zero).item() > 1e30


EVERY = [
    measures.rmse,
    measures.nrmse,
    measures.vrmse,
    measures.boundary_rmse,
    measures.max_error,
    measures.pearson,
    measures.mass_error,
    measures.crmse,
    measures.frmse,
    measures.max_over_batch,
]


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.__name__)
def test_exchanging_the_axes_changes_nothing(measure):
    prediction, truth = random_pair(shape=(2, 3, 28, 20, 2))
    turned = measure(prediction.transpose(2, 3), truth.transpose(2, 3))
    torch.testing.assert_close(turned, measure(prediction, truth))


@pytest.mark.parametrize(
    "measure",
    [each for each in EVERY if each not in (measures.boundary_rmse, measures.frmse)],
    ids=lambda m: m.__name__,
)
def test_fields_constant_along_an_axis_have_the_value_of_one_axis(measure):
    """Sides along that axis and the highest mode are the exceptions: a boundary of four sides, shells below X / 2."""
    prediction, truth = random_pair()
    wide = [field.unsqueeze(3).expand(-1, -1, -1, 7, -1) for field in (prediction, truth)]
    torch.testing.assert_close(measure(*wide), measure(prediction, truth))


def test_shells_of_fields_constant_along_an_axis_are_the_modes_of_the_other():
    prediction, truth = random_pair()
    wide = [field.unsqueeze(3).expand(-1, -1, -1, 40, -1) for field in (prediction, truth)]
    modes, shells = measures.spectral_error_power(prediction, truth), measures.spectral_error_power(*wide)
    assert shells.shape[2] == 15  # modes 0..15 of 30 cells, without the highest
    torch.testing.assert_close(shells, modes[:, :, :15])


def wave(kx, ky, cells=(32, 28), phase=0.4):
    x, y = (torch.arange(n, dtype=torch.float64) / n for n in cells)
    return torch.cos(2 * torch.pi * (kx * x[:, None] + ky * y) + phase)[None, None, :, :, None]


@pytest.mark.parametrize(
    ("kx", "ky", "band"), [(0, 0, 0), (2, 2, 0), (0, 3, 0), (3, 3, 1), (4, 0, 1), (8, 8, 1), (0, 12, 2), (12, 5, 2)]
)
def test_a_plane_wave_lands_in_the_band_of_its_length(kx, ky, band):
    bands = measures.frmse(wave(kx, ky), torch.zeros_like(wave(kx, ky)))[0, :, 0]
    shells_in_band = (4, 8, 2)[band]  # 14 shells in all
    amplitude = abs(math.cos(0.4)) if kx == ky == 0 else 0.5
    expected = torch.zeros(3, dtype=torch.float64)
    expected[band] = amplitude / shells_in_band
    torch.testing.assert_close(bands, expected, atol=1e-12, rtol=0)


def test_parseval_ties_the_shells_to_the_rmse():
    """Where every wave of the error lies in PDEBench's quadrant and in a shell, each stands for two coefficients."""
    random = np.random.default_rng(6)
    waves = [(0, 0), (5, 0), (0, 11), (1, 1), (3, 4), (9, 9), (12, 5), (2, 13)]
    error = sum(random.normal() * wave(kx, ky, phase=random.uniform(0, 6)) for kx, ky in waves)
    truth = torch.zeros_like(error)
    power = measures.spectral_error_power(error, truth)
    assert power.shape == (1, 1, 14, 1)
    total = 2 * power.sum(dim=2) - error.mean() ** 2
    torch.testing.assert_close(total, measures.rmse(error, truth).square())


def test_shells_are_pdebenchs():
    """One coefficient at a time: a quadrant, the whole part of the length, no shell beyond the shorter axis."""
    prediction, truth = random_pair(shape=(2, 3, 10, 14, 2))
    coefficients = np.fft.fft2((prediction - truth).numpy(), axes=(2, 3)) / 140
    expected = np.zeros((2, 3, 5, 2))
    for kx, ky in np.ndindex(5, 7):
        if (shell := math.isqrt(kx**2 + ky**2)) < 5:
            expected[:, :, shell] += np.abs(coefficients[:, :, kx, ky]) ** 2
    np.testing.assert_allclose(measures.spectral_error_power(prediction, truth), expected, rtol=1e-12)
    falling = wave(3, -4)
    assert measures.spectral_error_power(falling, torch.zeros_like(falling)).max() < 1e-20


@pytest.mark.parametrize(("cells", "bands"), [((24, 64), 2), ((26, 64), 3), ((8, 64), 1)])
def test_few_cells_along_either_axis_have_no_high_band(cells, bands):
    prediction, truth = random_pair(shape=(1, 2, *cells, 1))
    assert measures.frmse(prediction, truth).shape == (2, bands, 1)


def test_the_one_score_averages_channels_whatever_their_units():
    prediction, truth = random_pair(shape=FLAT)
    scale = torch.tensor([1.0, 1e3], dtype=torch.float64)
    here = measures.rollout_nrmse(prediction, truth)
    assert measures.rollout_nrmse(prediction * scale, truth * scale) == pytest.approx(here, rel=1e-12)
    assert here == pytest.approx(slow(slow_nrmse, prediction, truth).mean(), rel=1e-12)

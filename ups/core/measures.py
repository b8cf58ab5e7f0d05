"""Distances of a predicted and a true field, each in one place: losses, validation and metrics call these.

Shapes: B samples, T frames, X the cells of all axes (X in 1-D; X, Y in 2-D), C channels, K modes or shells of the
spectrum. Fields are (B, T, X, C) in physical units, and a mean or a sum over x runs over all cells.
PDEBench's named metrics (Takamoto et al. 2022) keep PDEBench's order of reduction: RMSE, nRMSE and bRMSE are per
sample and frame and averaged afterwards; cRMSE and fRMSE take the root after the mean over the batch; the maximum
error is the maximum over the batch. What is per sample here says so by its shape (B, T, C).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core.physics import Boundary

LOW_MODES = 4
"""fRMSE low: modes (1-D) or shells (2-D) 0 <= k < 4"""
MIDDLE_MODES = 12
"""fRMSE middle: 4 <= k < 12; high: the rest"""


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation along the first axis, in [-1, 1]; ties share their mean rank.

    Values that do not vary rank nothing and count as 0.
    """
    # half a second to import, in every worker of a search
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=0) for values in (first, second)]
    a, b = (each - each.mean(axis=0) for each in ranks)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros_like(size), where=size > 0)


def rmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """sqrt(mean_x (p - u)^2) as (B, T, C)."""
    return _flat(prediction_BTXC - truth_BTXC).square().mean(dim=-2).sqrt()


def nrmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """sqrt(mean_x (p - u)^2) / sqrt(mean_x u^2) as (B, T, C).

    A truth that is exactly zero gives 0 for an equal prediction and a huge number for any other.
    """
    size = _flat(truth_BTXC).square().mean(dim=-2).sqrt()
    return rmse(prediction_BTXC, truth_BTXC) / size.clamp_min(torch.finfo(size.dtype).tiny)


def vrmse(prediction_BTXC: Tensor, truth_BTXC: Tensor, floor: float = 1e-7) -> Tensor:
    """sqrt(mean_x (p - u)^2 / (var_x u + floor)) as (B, T, C): The Well's measure, 1 for the spatial mean."""
    variance = _flat(truth_BTXC).var(dim=-2, unbiased=False)
    return (_flat(prediction_BTXC - truth_BTXC).square().mean(dim=-2) / (variance + floor)).sqrt()


def boundary_rmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """bRMSE of each sample and frame: the RMSE over the cells of all sides, as (B, T, C).

    The sides are counted one by one, so that a cell in a corner counts once for each side that it lies on.
    """
    error = prediction_BTXC - truth_BTXC
    sides = [
        _flat(error.narrow(axis, end, 1)) for axis in range(2, error.ndim - 1) for end in (0, error.shape[axis] - 1)
    ]
    return torch.cat(sides, dim=-2).square().mean(dim=-2).sqrt()


def max_error(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """max_x |p - u| as (B, T, C)."""
    return _flat(prediction_BTXC - truth_BTXC).abs().amax(dim=-2)


def pearson(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """Correlation over space as (B, T, C), in [-1, 1].

    Where a field is constant in space the quotient is undefined: 1 if both are constant, 0 if only one is.
    """
    p, u = _flat(prediction_BTXC), _flat(truth_BTXC)
    p, u = p - p.mean(dim=-2, keepdim=True), u - u.mean(dim=-2, keepdim=True)
    # dividing by the rms of each first keeps products of tiny or huge fields inside the float range
    size_p, size_u = p.square().mean(dim=-2).sqrt(), u.square().mean(dim=-2).sqrt()
    flat_p, flat_u = size_p == 0, size_u == 0
    p = p / torch.where(flat_p, 1.0, size_p).unsqueeze(-2)
    u = u / torch.where(flat_u, 1.0, size_u).unsqueeze(-2)
    correlation = (p * u).mean(dim=-2).clamp(-1, 1)
    correlation = torch.where(flat_p | flat_u, 0.0, correlation)
    return torch.where(flat_p & flat_u, 1.0, correlation)


def mass_error(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """(sum_x p - sum_x u) over the number of cells, with its sign, as (B, T, C)."""
    return _flat(prediction_BTXC - truth_BTXC).mean(dim=-2)


def spectral_error_power(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """|F(p - u) / number of cells|^2 as (B, T, K, C).

    1-D: every rfft mode. 2-D: the sum over the shell k <= |(kx, ky)| < k + 1 of PDEBench's quadrant 0 <= kx < X/2,
    0 <= ky < Y/2, shells k < min(X, Y)/2. The other quadrant of a real field does not enter, so that the numbers
    stand beside published ones: a wave whose crests fall to the right counts as nothing, one whose crests rise
    counts in full.
    """
    error_BTXC = prediction_BTXC - truth_BTXC
    axes = tuple(range(2, error_BTXC.ndim - 1))
    error = torch.fft.rfftn(error_BTXC, dim=axes, norm="forward")
    power = error.real.square() + error.imag.square()
    if len(axes) == 1:
        return power
    half = [error_BTXC.shape[axis] // 2 for axis in axes]
    for axis, modes in zip(axes, half, strict=True):
        power = power.narrow(axis, 0, modes)
    waves = torch.meshgrid(*(torch.arange(modes, device=power.device) for modes in half), indexing="ij")
    # the root of a sum of whole squares is exact where it is whole, so no wave lands in the shell below its own
    shell = torch.stack(waves).double().square().sum(dim=0).sqrt().long().flatten()
    inside = shell < min(half)
    power_BTKC = power.new_zeros((*power.shape[:2], min(half), power.shape[-1]))
    return power_BTKC.index_add(2, shell[inside], power.flatten(2, -2)[:, :, inside])


def energy_spectrum(field_BTXC: Tensor, boundary: Boundary = "periodic") -> Tensor:
    """Energy of each shell of wavenumbers, E(k) = 1/2 sum |u_k'|^2 over k - 1/2 <= |k'| < k + 1/2, as (B, T, K, C).

    u_k' are the coefficients of the Fourier series, so that the sum over all k is half the mean square of the field,
    up to what lies in the corners of a 2-D spectrum beyond the last shell. k counts waves along the first axis; cells
    are squares, so one k is the same wavenumber along every axis. A field with walls is continued by its mirror
    image (neumann), or by the negative of that (dirichlet), to a period of twice its length: there k counts
    half-waves. This is the shell-summed energy spectrum of S. B. Pope, Turbulent Flows (2000), section 6.5, of each
    channel on its own.
    """
    axes = tuple(range(2, field_BTXC.ndim - 1))
    field = field_BTXC.double()
    if boundary != "periodic":
        for axis in axes:
            mirrored = field.flip(axis)
            field = torch.cat([field, mirrored if boundary == "neumann" else -mirrored], dim=axis)
    power = torch.fft.fftn(field, dim=axes, norm="forward").abs().square()
    cells = [field.shape[axis] for axis in axes]
    # one wave along an axis of another length is another wavenumber
    waves = [torch.fft.fftfreq(count, 1 / count, device=field.device) * (cells[0] / count) for count in cells]
    size = torch.stack(torch.meshgrid(*waves, indexing="ij")).double().square().sum(dim=0).sqrt()
    shell = (size + 0.5).long().flatten()
    shells = cells[0] // 2 + 1
    inside = shell < shells
    energy_BTKC = power.new_zeros((*power.shape[:2], shells, power.shape[-1]))
    return energy_BTKC.index_add(2, shell[inside], power.flatten(2, -2)[:, :, inside]) / 2


def crmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """PDEBench's conserved-quantity error as (T, C): the root is taken after the mean over the batch."""
    return mass_error(prediction_BTXC, truth_BTXC).square().mean(dim=0).sqrt()


def frmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """PDEBench's Fourier-space error as (T, bands, C): low, middle, high; root after the batch mean."""
    return frequency_bands(spectral_error_power(prediction_BTXC, truth_BTXC).mean(dim=0))


def frequency_bands(power_TKC: Tensor) -> Tensor:
    """fRMSE (T, bands, C) of the batch mean of `spectral_error_power`: root of each mode, mean of each band.

    Bands that have no modes are left out: fewer than 24 cells (2-D: 26) have no high band.
    """
    amplitude_TKC = power_TKC.sqrt()
    modes = amplitude_TKC.shape[1]
    edges = (0, min(LOW_MODES, modes), min(MIDDLE_MODES, modes), modes)
    bands = [amplitude_TKC[:, low:high].mean(dim=1) for low, high in pairwise(edges) if low < high]
    return torch.stack(bands, dim=1)


def max_over_batch(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """PDEBench's maximum error as (T, C): over space and the batch."""
    return max_error(prediction_BTXC, truth_BTXC).amax(dim=0)


def rollout_nrmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> float:
    """The one score: mean nRMSE of samples, predicted frames and channels; inf where it is not finite."""
    score = nrmse(prediction_BTXC, truth_BTXC).double().mean().item()
    return score if math.isfinite(score) else math.inf


def _flat(field_BTXC: Tensor) -> Tensor:
    """All spatial axes as one, the last but one."""
    return field_BTXC.flatten(2, -2)

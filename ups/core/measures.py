"""Distances of a predicted and a true field, each in one place: losses, validation and metrics call these.

Shapes: B samples, T frames, X cells, C channels, K rfft modes. Fields are (B, T, X, C) in physical units.
PDEBench's named metrics (Takamoto et al. 2022) keep PDEBench's order of reduction: RMSE, nRMSE and bRMSE are per
sample and frame and averaged afterwards; cRMSE and fRMSE take the root after the mean over the batch; the maximum
error is the maximum over the batch. What is per sample here says so by its shape (B, T, C).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

LOW_MODES = 4
"""fRMSE low: rfft modes 0 <= k < 4"""
MIDDLE_MODES = 12
"""fRMSE middle: 4 <= k < 12; high: the rest"""


def rmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """sqrt(mean_x (p - u)^2) as (B, T, C)."""
    return (prediction_BTXC - truth_BTXC).square().mean(dim=-2).sqrt()


def nrmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """sqrt(mean_x (p - u)^2) / sqrt(mean_x u^2) as (B, T, C).

    A truth that is exactly zero gives 0 for an equal prediction and a huge number for any other.
    """
    size = truth_BTXC.square().mean(dim=-2).sqrt()
    return rmse(prediction_BTXC, truth_BTXC) / size.clamp_min(torch.finfo(size.dtype).tiny)


def vrmse(prediction_BTXC: Tensor, truth_BTXC: Tensor, floor: float = 1e-7) -> Tensor:
    """sqrt(mean_x (p - u)^2 / (var_x u + floor)) as (B, T, C): The Well's measure, 1 for the spatial mean."""
    variance = truth_BTXC.var(dim=-2, unbiased=False)
    return ((prediction_BTXC - truth_BTXC).square().mean(dim=-2) / (variance + floor)).sqrt()


def boundary_rmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """bRMSE of each sample and frame: the RMSE of the first and the last cell, as (B, T, C)."""
    return rmse(prediction_BTXC[..., [0, -1], :], truth_BTXC[..., [0, -1], :])


def max_error(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """max_x |p - u| as (B, T, C)."""
    return (prediction_BTXC - truth_BTXC).abs().amax(dim=-2)


def pearson(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """Correlation over space as (B, T, C), in [-1, 1].

    Where a field is constant in space the quotient is undefined: 1 if both are constant, 0 if only one is.
    """
    p = prediction_BTXC - prediction_BTXC.mean(dim=-2, keepdim=True)
    u = truth_BTXC - truth_BTXC.mean(dim=-2, keepdim=True)
    # dividing by the rms of each first keeps products of tiny or huge fields inside the float range
    size_p, size_u = p.square().mean(dim=-2).sqrt(), u.square().mean(dim=-2).sqrt()
    flat_p, flat_u = size_p == 0, size_u == 0
    p = p / torch.where(flat_p, 1.0, size_p).unsqueeze(-2)
    u = u / torch.where(flat_u, 1.0, size_u).unsqueeze(-2)
    correlation = (p * u).mean(dim=-2).clamp(-1, 1)
    correlation = torch.where(flat_p | flat_u, 0.0, correlation)
    return torch.where(flat_p & flat_u, 1.0, correlation)


def mass_error(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """(sum_x p - sum_x u) / X with its sign, as (B, T, C)."""
    return (prediction_BTXC - truth_BTXC).mean(dim=-2)


def spectral_error_power(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """|rfft_x(p - u) / X|^2 as (B, T, K, C)."""
    error = torch.fft.rfft(prediction_BTXC - truth_BTXC, dim=-2, norm="forward")
    return error.real.square() + error.imag.square()


def crmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """PDEBench's conserved-quantity error as (T, C): the root is taken after the mean over the batch."""
    return mass_error(prediction_BTXC, truth_BTXC).square().mean(dim=0).sqrt()


def frmse(prediction_BTXC: Tensor, truth_BTXC: Tensor) -> Tensor:
    """PDEBench's Fourier-space error as (T, bands, C): low, middle, high; root after the batch mean."""
    return frequency_bands(spectral_error_power(prediction_BTXC, truth_BTXC).mean(dim=0))


def frequency_bands(power_TKC: Tensor) -> Tensor:
    """fRMSE (T, bands, C) of the batch mean of `spectral_error_power`: root of each mode, mean of each band.

    Bands that have no modes are left out: fewer than 24 cells have no high band.
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

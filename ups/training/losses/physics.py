"""What an equation says about predicted fields, as terms of the loss. B batch, h frames, X all axes, C channels.

Every term is a square without unit, so that weights mean the same for every task.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ups.core.integrators import integrate_burgers
from ups.core.types import FieldSpec
from ups.training.losses.prediction import Prediction


def residual(prediction: Prediction) -> Tensor:
    """Burgers: squared distance of the first predicted frame to the equation integrated from the given one.

    Relative to the size of what the integration gives, as the forward term; the truth itself scores its
    discretisation error. The given frame is data, so nothing is differentiated through the integration.
    """
    spec = prediction.spec
    with torch.no_grad(), torch.autocast(prediction.given_BXC.device.type, enabled=False):
        nu_B = prediction.parameters_BP[:, 0].float()
        solved_BX = integrate_burgers(prediction.given_BXC[..., 0].float(), nu_B, spec.dt, spec.length)
    error_B = (prediction.frames_BhXC[:, 0, ..., 0] - solved_BX).square().mean(-1)
    size_B = solved_BX.square().mean(-1) + prediction.floor_B1C[:, 0, 0]
    return (error_B / size_B).mean()


def divergence(prediction: Prediction) -> Tensor:
    """(div v)^2 over the squared gradient of the true velocity, both means over space."""
    spec, equation = prediction.spec, prediction.surrogate.equation
    channels = [equation.channel(name) for name in equation.velocity]
    predicted, truth = (fields[..., channels] for fields in (prediction.frames_BhXC, prediction.truth_BhXC))
    divergence_BhX = torch.stack([derivative(predicted[..., axis], axis, spec) for axis in range(spec.axes)]).sum(0)
    with torch.no_grad():
        steepness = [derivative(truth[..., part], axis, spec) for part in range(spec.axes) for axis in range(spec.axes)]
        size_Bh = torch.stack(steepness).square().sum(0).flatten(2).mean(-1)
    # a velocity at rest has no gradient: the floor is 1 % of the deviation over the domain
    floor = (0.01 / spec.length) ** 2 * prediction.std_C[channels].square().mean()
    return (divergence_BhX.square().flatten(2).mean(-1) / (size_Bh + floor)).mean()


def derivative(field_BhX: Tensor, axis: int, spec: FieldSpec) -> Tensor:
    """d/dx along a spatial axis, the same shape: of the trigonometric polynomial where the axis is periodic, else
    central differences (second order at the walls, too)."""
    dim = 2 + axis
    field_BhX = field_BhX.float()
    if spec.boundary != "periodic":
        return torch.gradient(field_BhX, spacing=spec.dx, dim=dim, edge_order=2)[0]
    cells = field_BhX.shape[dim]
    wave_K = 2 * math.pi / (cells * spec.dx) * torch.arange(cells // 2 + 1, device=field_BhX.device)
    if cells % 2 == 0:
        # the highest wave has no derivative on the grid: its sine vanishes at every cell
        wave_K[-1] = 0
    spectrum = torch.fft.rfft(field_BhX.movedim(dim, -1))
    return torch.fft.irfft(1j * wave_K * spectrum, n=cells).movedim(-1, dim)


def boundary(prediction: Prediction) -> Tensor:
    """At the walls, in deviations: the squared value (dirichlet), or the squared difference of neighbouring cells that
    the normal gradient makes (neumann), extrapolated by the parabola through the three nearest cells."""
    spec = prediction.spec
    order = 0 if spec.boundary == "dirichlet" else 1
    frames = prediction.frames_BhXC / prediction.std_C
    # striding keeps the first of every `space_stride` fine cells
    near = 0.5 / prediction.space_stride
    terms = []
    for dim in range(2, 2 + spec.axes):
        for distance, ordered in ((near, frames), (1 - near, frames.flip(dim))):
            weights_3 = frames.new_tensor(wall_weights(distance, order))
            at_wall = torch.tensordot(ordered.narrow(dim, 0, 3), weights_3, dims=([dim], [0]))
            terms.append(at_wall.square().mean())
    return torch.stack(terms).mean()


def wall_weights(distance: float, order: int) -> list[float]:
    """Weights of the three nearest cells for the value (order 0) or the derivative (order 1) at a wall that lies
    `distance` cells before the first of them; exact for parabolas."""
    powers_P3 = np.vander(distance + np.arange(3.0), 3, increasing=True).T
    return np.linalg.solve(powers_P3, np.eye(3)[order]).tolist()


def positivity(prediction: Prediction) -> Tensor:
    """Mean square of the negative part of the fields that are never negative, in deviations."""
    equation = prediction.surrogate.equation
    channels = [equation.channel(name) for name in equation.positive]
    fields = (prediction.frames_BhXC + prediction.mean_B1XC)[..., channels]
    return (fields.clamp_max(0) / prediction.std_C[channels]).square().mean()

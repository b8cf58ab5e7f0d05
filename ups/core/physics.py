"""Facts of the equations and properties of one field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Equation:
    """What is known of an equation before any data is seen."""

    name: str
    parameter: str
    """the parameter's name in PDEBench's file attributes, lower case"""
    conserves_mean: bool
    dissipates_energy: bool
    galilean: bool
    """u(x, t) -> u(x - m t, t) + m maps solutions to solutions"""
    amplitude: bool
    """dividing the field by a number gives a solution again, of a problem that the number tells"""
    odd_reflection: bool
    """u(x) -> -u(-x) maps solutions to solutions with the same parameter"""
    summary: str

    @property
    def num_numbers(self) -> int:
        """How many dimensionless numbers `numbers` returns."""
        return 2 if self.name == "burgers" else 1

    def numbers(self, amplitude: Tensor, parameter: Tensor, dt: float, length: float) -> Tensor:
        """The dimensionless numbers that a step of dt depends on once the amplitude is taken out, (B, F).

        Burgers: log of the Courant-like number a dt / L and of the inverse Reynolds number nu / (a L), so that
        u -> s u, nu -> s nu, dt -> dt / s is the same problem. Advection is linear: beta dt / L alone.
        """
        if self.name == "burgers":
            return torch.stack([(amplitude * dt / length).log(), (parameter / (amplitude * length)).log()], dim=-1)
        return (parameter * dt / length)[:, None]


EQUATIONS: dict[str, Equation] = {
    "burgers": Equation(
        name="burgers",
        parameter="nu",
        conserves_mean=True,
        dissipates_energy=True,
        galilean=True,
        amplitude=True,
        odd_reflection=True,
        summary="u_t + (u^2/2)_x = (nu/pi) u_xx, periodic",
    ),
    "advection": Equation(
        name="advection",
        parameter="beta",
        conserves_mean=True,
        dissipates_energy=False,
        galilean=False,
        amplitude=True,
        odd_reflection=False,
        summary="u_t + beta u_x = 0, periodic",
    ),
}


def spectral_shift(field_XL: Tensor, distance_L: Tensor, length: float) -> Tensor:
    """The periodic field moved to the right by `distance`: the result at x is the field at x - distance.

    Args:
        field_XL: (..., X) real values on an equidistant periodic grid; leading axes broadcast with `distance_L`.
        distance_L: (...) physical distances.
        length: physical length of the domain.
    """
    cells = field_XL.shape[-1]
    wavenumbers = 2 * torch.pi / length * torch.arange(cells // 2 + 1, device=field_XL.device)
    phase = torch.exp(-1j * wavenumbers * distance_L[..., None].double()).to(torch.complex64)
    if field_XL.dtype == torch.float64:
        phase = torch.exp(-1j * wavenumbers.double() * distance_L[..., None].double())
    return torch.fft.irfft(torch.fft.rfft(field_XL) * phase, n=cells)

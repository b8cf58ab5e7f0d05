"""Facts of the equations and properties of one field. B batch, P parameters, F features, X.. cells of each axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Boundary = Literal["periodic", "neumann", "dirichlet"]
"""what lies outside the domain: itself again, a mirror image (no flux), or zero"""


@dataclass(frozen=True)
class Equation:
    """What is known of an equation before any data is seen."""

    name: str
    summary: str
    axes: int
    """spatial dimensions"""
    channels: tuple[str, ...]
    """names of the predicted fields, in the order of the last axis"""
    parameters: tuple[str, ...]
    """the parameters that a file must tell, as PDEBench names its attributes, in lower case"""
    boundary: Boundary = "periodic"
    """of files that do not say otherwise"""
    defaults: dict[str, float] = field(default_factory=dict)
    """values of parameters that PDEBench's own files leave unsaid"""
    signed: tuple[str, ...] = ()
    """parameters that may be zero or negative"""
    steady: bool = False
    """frame 0 is a given coefficient field and frame 1 the solution; there is no time"""
    conserves_mean: bool = False
    """the integral of every field is constant in time"""
    free_mean: bool = False
    """a constant added to the field changes nothing but (with `galilean`) the frame of reference"""
    dissipates_energy: bool = False
    """the integral of the square of the fields never grows"""
    conserves_energy: bool = False
    """the integral of the square of the fields is constant in time"""
    bounded: tuple[str, ...] = ()
    """fields that obey a maximum principle: they stay between the extremes of any earlier frame"""
    diminishes_variation: bool = False
    """the total variation never grows"""
    galilean: bool = False
    """u(x, t) -> u(x - m t, t) + m maps solutions to solutions"""
    amplitude: bool = False
    """dividing the field by a number gives a solution again, of a problem that the number tells"""
    reflection: Literal["none", "odd", "even", "vector"] = "none"
    """what u(-x) must be multiplied by to be a solution with the same parameters: -1 (odd), 1 (even), or -1 for the
    velocity component along the reflected axis alone (vector); where it exists, so does the exchange of two axes"""
    positive: tuple[str, ...] = ()
    """fields that never become negative"""
    velocity: tuple[str, ...] = ()
    """fields that are the components of a velocity without divergence, one for each axis"""

    @property
    def num_numbers(self) -> int:
        """How many dimensionless numbers `numbers` returns."""
        return 2 if self.name == "burgers" else len(self.parameters)

    def numbers(self, amplitude_B: Tensor, parameters_BP: Tensor, dt: float, length: float) -> Tensor:
        """The dimensionless numbers that a step of dt depends on, (B, F).

        Burgers, its amplitude a taken out: log of the Courant-like number a dt / L and of the inverse Reynolds number
        nu / (a L), so that u -> s u, nu -> s nu, dt -> dt / s is the same problem. Advection is linear: beta dt / L
        alone. The others: log of the parameter, made dimensionless with dt and L.
        """
        values = dict(zip(self.parameters, parameters_BP.unbind(-1), strict=True))
        if self.name == "burgers":
            numbers = [(amplitude_B * dt / length).log(), (values["nu"] / (amplitude_B * length)).log()]
        elif self.name == "advection":
            numbers = [values["beta"] * dt / length]
        else:
            # diffusivities come with L^2 / dt, rates with 1 / dt; a coefficient alone (k, Darcy's beta) is one already
            unit = {"nu": dt / length**2, "du": dt / length**2, "dv": dt / length**2, "rho": dt}
            numbers = [(value * unit.get(name, 1.0)).log() for name, value in values.items()]
        return torch.stack(numbers, dim=-1)

    def channel(self, name: str) -> int:
        return self.channels.index(name)


EQUATIONS: dict[str, Equation] = {
    each.name: each
    for each in (
        Equation(
            name="burgers",
            summary="u_t + (u^2/2)_x = (nu/pi) u_xx, periodic",
            axes=1,
            channels=("u",),
            parameters=("nu",),
            conserves_mean=True,
            free_mean=True,
            dissipates_energy=True,
            bounded=("u",),
            diminishes_variation=True,
            galilean=True,
            amplitude=True,
            reflection="odd",
        ),
        Equation(
            name="advection",
            summary="u_t + beta u_x = 0, periodic",
            axes=1,
            channels=("u",),
            parameters=("beta",),
            signed=("beta",),
            conserves_mean=True,
            conserves_energy=True,
            bounded=("u",),
            diminishes_variation=True,
            free_mean=True,
            amplitude=True,
        ),
        Equation(
            name="reaction_diffusion",
            summary="u_t = nu u_xx + rho u (1 - u), periodic",
            axes=1,
            channels=("u",),
            parameters=("nu", "rho"),
            reflection="even",
            positive=("u",),
        ),
        Equation(
            name="diffusion_reaction",
            summary="u_t = Du lap u + u - u^3 - k - v, v_t = Dv lap v + u - v, no flux through the boundary",
            axes=2,
            channels=("u", "v"),
            parameters=("du", "dv", "k"),
            boundary="neumann",
            defaults={"du": 1e-3, "dv": 5e-3, "k": 5e-3},
            reflection="even",
        ),
        Equation(
            name="navier_stokes",
            summary="v_t + (v.grad) v = -grad p + nu lap v, div v = 0, s_t + v.grad s = nu lap s",
            axes=2,
            channels=("vx", "vy", "s"),
            parameters=("nu",),
            boundary="periodic",
            conserves_mean=True,
            dissipates_energy=True,
            bounded=("s",),
            reflection="vector",
            positive=("s",),
            velocity=("vx", "vy"),
        ),
        Equation(
            name="darcy",
            summary="-div(a grad u) = beta, u = 0 on the boundary; a is given",
            axes=2,
            channels=("u",),
            parameters=("beta",),
            boundary="dirichlet",
            steady=True,
            reflection="even",
            positive=("u",),
        ),
    )
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

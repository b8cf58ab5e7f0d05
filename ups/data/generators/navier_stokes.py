"""Incompressible flow on a periodic square, without forcing, that carries and diffuses a scalar.

v_t + (v.grad) v = -grad p + nu lap v, div v = 0 and s_t + v.grad s = nu lap s. S trajectories, T frames, X, Y cells,
K half of the wavenumbers along Y, C = 3 channels: vx, vy, s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from ups.data.generators.generator import Array64, Generator, cell_centres

Spectrum = NDArray[np.complex128]

# of |vx| + |vy|: the dealiased method is stable up to 1.3, and below 0.7 its error is that of the grid
_CFL = 0.7
# the largest wavenumber, along each axis, of the stream function and of the root of the scalar
_MODES = 4


def solve_navier_stokes(
    initial_SXYC: ArrayLike,
    nu: float,
    dt: float,
    frames: int,
    *,
    length: float = 1.0,
    steps: int | None = None,
) -> Array64:
    """`frames` frames at spacing `dt`, the first of them `initial_SXYC`: (S, T, X, Y, 3) float64.

    Pseudo-spectral in the vorticity, products freed of aliases by the 2/3 rule, in time the classical Runge-Kutta
    method with diffusion as an integrating factor: order 4. Divergence is zero and the means are kept by construction;
    of the given velocity only the part without divergence is evolved.

    Args:
        length: of the domain along its first axis; cells are squares.
        steps: between two frames, None for as many as the speed needs.
    """
    initial_SXYC = np.asarray(initial_SXYC, dtype=np.float64)
    assert np.isfinite(initial_SXYC).all()
    trajectories, nx, ny, channels = initial_SXYC.shape
    flow = _Flow(nx, ny, nu, length)
    out_STXYC = np.empty((trajectories, frames, nx, ny, channels))
    for initial_XYC, out_TXYC in zip(initial_SXYC, out_STXYC, strict=True):
        out_TXYC[0] = initial_XYC
        mean_2, state_2XK = flow.state(initial_XYC)
        for frame in range(1, frames):
            speed = float(np.abs(out_TXYC[frame - 1, ..., :2]).sum(axis=-1).max())
            if not math.isfinite(speed):
                out_TXYC[frame:] = np.nan
                break
            count = steps or max(1, math.ceil(dt * speed / (_CFL * flow.dx)))
            for _ in range(count):
                state_2XK = flow.step(state_2XK, mean_2, dt / count)
            out_TXYC[frame] = flow.fields(state_2XK, mean_2)
    return out_STXYC


class _Flow:
    """Vorticity and scalar of one grid as spectra (2, X, K), and how they change."""

    def __init__(self, nx: int, ny: int, nu: float, length: float) -> None:
        self.shape, self.dx = (nx, ny), length / nx
        kx, ky = fft.fftfreq(nx, 1 / nx), fft.rfftfreq(ny, 1 / ny)
        kept_XK = (np.abs(kx)[:, None] < nx / 3) & (ky < ny / 3)
        self.ikx_XK = np.where(kept_XK, 2j * np.pi / length * kx[:, None], 0)
        self.iky_XK = np.where(kept_XK, 2j * np.pi / (self.dx * ny) * ky, 0)
        self.square_XK = -(self.ikx_XK**2 + self.iky_XK**2).real
        inverse_XK = np.divide(1, self.square_XK, out=np.zeros(kept_XK.shape), where=self.square_XK > 0)
        # of the vorticity to the velocity, by the stream function
        self.to_vx_XK, self.to_vy_XK = self.iky_XK * inverse_XK, -self.ikx_XK * inverse_XK
        self.kept_XK, self.nu = kept_XK, nu

    def state(self, fields_XYC: Array64) -> tuple[Array64, Spectrum]:
        """The mean velocity, which stays, and the spectra of vorticity and scalar."""
        vx_XK, vy_XK, s_XK = self._forward(np.moveaxis(fields_XYC, -1, 0))
        vorticity_XK = self.ikx_XK * vy_XK - self.iky_XK * vx_XK
        return fields_XYC[..., :2].mean(axis=(0, 1)), np.stack([vorticity_XK, self.kept_XK * s_XK])

    def fields(self, state_2XK: Spectrum, mean_2: Array64) -> Array64:
        """(X, Y, 3)"""
        vorticity_XK, s_XK = state_2XK
        fields_XYC = np.moveaxis(
            self._inverse(np.stack([self.to_vx_XK * vorticity_XK, self.to_vy_XK * vorticity_XK, s_XK])), 0, -1
        )
        fields_XYC[..., :2] += mean_2
        return fields_XYC

    def step(self, state_2XK: Spectrum, mean_2: Array64, step: float) -> Spectrum:
        half_XK = np.exp(-self.nu * self.square_XK * step / 2)
        whole_XK = half_XK**2
        first = self._advection(state_2XK, mean_2)
        second = self._advection(half_XK * (state_2XK + step / 2 * first), mean_2)
        third = self._advection(half_XK * state_2XK + step / 2 * second, mean_2)
        fourth = self._advection(whole_XK * state_2XK + step * half_XK * third, mean_2)
        return whole_XK * (state_2XK + step / 6 * first) + step / 6 * (2 * half_XK * (second + third) + fourth)

    def _advection(self, state_2XK: Spectrum, mean_2: Array64) -> Spectrum:
        """-div(v q) of vorticity and scalar q; in this form the means are kept to rounding."""
        vorticity_XK = state_2XK[0]
        vx_XY, vy_XY, *carried = self._inverse(
            np.stack([self.to_vx_XK * vorticity_XK, self.to_vy_XK * vorticity_XK, *state_2XK])
        )
        carried_2XY = np.stack(carried)
        fluxes = self._forward(np.concatenate([(vx_XY + mean_2[0]) * carried_2XY, (vy_XY + mean_2[1]) * carried_2XY]))
        return -(self.ikx_XK * fluxes[:2] + self.iky_XK * fluxes[2:])

    def _forward(self, fields_LXY: Array64) -> Spectrum:
        return fft.rfft2(fields_LXY, axes=(1, 2))

    def _inverse(self, spectra_LXK: Spectrum) -> Array64:
        return fft.irfft2(spectra_LXK, s=self.shape, axes=(1, 2))


def _draw(seed: int, trajectory: int, cells: int) -> Array64:
    """A velocity of few modes, rms 1 and mean 0, and a smooth scalar of mean 1 that is nowhere below 1/2: (X, Y, 3).

    Stream function and scalar are sums of waves with at most `_MODES` periods along each axis, whose variance falls
    with the wavenumber; the same fields on every grid that resolves them.
    """
    random = np.random.default_rng([seed, trajectory])
    m = np.arange(-_MODES, _MODES + 1)
    waves_XM = np.exp(2j * np.pi * cell_centres(cells)[:, None] * m)
    square_MM = (m**2)[:, None] + m**2
    # velocities of equal size up to wavenumber 2 or so, and a steep fall beyond
    size_MM = np.where(square_MM > 0, (1 + (square_MM / 6) ** 2) ** -1, 0)

    stream_MM = size_MM * _normal(random, size_MM.shape)
    vx_XY = _evaluate(waves_XM, 2j * np.pi * m * stream_MM)
    vy_XY = _evaluate(waves_XM, -2j * np.pi * m[:, None] * stream_MM)
    speed = 2 * np.pi * math.sqrt((square_MM * np.abs(stream_MM) ** 2).sum())

    root_MM = size_MM * _normal(random, size_MM.shape)
    square_XY = _evaluate(waves_XM, root_MM) ** 2 / (np.abs(root_MM) ** 2).sum()
    return np.stack([vx_XY / speed, vy_XY / speed, (1 + square_XY) / 2], axis=-1)


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> Spectrum:
    """The spectrum of a real field: of opposite wavenumbers the values are conjugate."""
    real, imaginary = random.standard_normal((2, *shape))
    one = real + 1j * imaginary
    return one + one[::-1, ::-1].conj()


def _evaluate(waves_XM: Spectrum, spectrum_MM: Spectrum) -> Array64:
    """The sum of waves, which is real."""
    return (waves_XM @ spectrum_MM @ waves_XM.T).real


def _solve(initial_XYC: Array64, parameters: Mapping[str, float], dt: float, frames: int, length: float) -> Array64:
    return solve_navier_stokes(initial_XYC[None], parameters["nu"], dt, frames, length=length)[0]


NAVIER_STOKES = Generator(
    _draw,
    _solve,
    # the smallest viscosity at which the velocity of 64 cells is within a part in a thousand of that of 128
    {"nu": 2e-3},
    trajectories=256,
    cells=64,
    frames=21,
    dt=0.1,
    # PDEBench's own flows are between walls
    attributes={"boundary": "periodic"},
)

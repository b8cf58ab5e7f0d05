"""The spectral product of a Fourier neural operator. B batch, X cells or tokens of every axis, H width, M modes."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from ups.core.physics import Boundary


class SpectralProduct(nn.Module):
    """Product with learned complex matrices on the lowest Fourier modes (FNO, arXiv:2010.08895), (B, X, H) -> same.

    It is a convolution as wide as the domain, and the boundary means the same as for any other: the field goes on
    periodically, as its mirror image (neumann), or as zero (dirichlet). The last two are transformed over twice the
    length, so that `modes` counts half waves. With two axes, the first has modes -(M-1)..M-1 and the second 0..M-1.

    The transforms are products with the few rows of the DFT matrix that are kept: for the modes and tokens used
    here that is quicker than an FFT of all modes, and it runs in any precision.
    """

    def __init__(
        self,
        width: int,
        modes: int | tuple[int, ...],
        groups: int = 1,
        axes: int = 1,
        boundary: Boundary = "periodic",
    ) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width must be divisible by groups, got {width} and {groups}")
        self.modes = (modes,) * axes if isinstance(modes, int) else modes
        self.groups = groups
        self.boundary = boundary
        part = width // groups
        kept = self.modes if axes == 1 else (2 * self.modes[0] - 1, self.modes[1])
        self.weight = nn.Parameter(torch.randn(*kept, 2, groups, part, part) / part / math.sqrt(2))

    def forward(self, x_BXH: Tensor) -> Tensor:
        return self._one_axis(x_BXH) if x_BXH.ndim == 3 else self._two_axes(x_BXH)

    def _one_axis(self, x_BXH: Tensor) -> Tensor:
        batch, cells, width = x_BXH.shape
        (modes,) = resolved_modes(self.modes, (cells,), self.boundary)
        forth_2MX, back_X2M = _real_fourier(cells, modes, self.boundary, x_BXH.device, x_BXH.dtype)
        spectrum = (forth_2MX @ x_BXH).view(batch, 2, modes, width)
        mixed = self._multiply(spectrum, self.weight[:modes])
        return back_X2M @ mixed.reshape(batch, 2 * modes, width)

    def _two_axes(self, x_BXYH: Tensor) -> Tensor:
        batch, cells_x, cells_y, width = x_BXYH.shape
        place = self.boundary, x_BXYH.device, x_BXYH.dtype
        modes_x, modes_y = resolved_modes(self.modes, (cells_x, cells_y), self.boundary)
        rows = 2 * modes_x - 1
        forth_y, back_y = _real_fourier(cells_y, modes_y, *place)
        forth_x, back_x = _complex_fourier(cells_x, modes_x, *place)
        # (B, X, Y, H) -> (B, X, 2 My, H) -> (B, 2 X, My H) -> (B, 2 Kx, My H): real parts, then imaginary ones
        along_y = (forth_y @ x_BXYH).view(batch, cells_x, 2, modes_y * width)
        spectrum = forth_x @ along_y.transpose(1, 2).reshape(batch, 2 * cells_x, modes_y * width)
        first = self.modes[0] - modes_x
        weight = self.weight[first : first + rows, :modes_y].flatten(0, 1)
        mixed = self._multiply(spectrum.view(batch, 2, rows * modes_y, width), weight)
        along_y = back_x @ mixed.reshape(batch, 2 * rows, modes_y * width)
        along_y = along_y.view(batch, 2, cells_x, modes_y, width).transpose(1, 2)
        return back_y @ along_y.reshape(batch, cells_x, 2 * modes_y, width)

    def _multiply(self, spectrum_B2MH: Tensor, weight: Tensor) -> Tensor:
        """Each mode times its complex matrix: real and imaginary parts (B, 2, M, H) to the same."""
        batch, _, modes, width = spectrum_B2MH.shape
        # rows (re, im) of each mode and group, times [[re, im], [-im, re]] of its weight
        parts = spectrum_B2MH.view(batch, 2, modes, self.groups, -1)
        rows = parts.permute(2, 3, 0, 1, 4).reshape(modes * self.groups, batch, -1)
        real, imaginary = weight.to(spectrum_B2MH.dtype).unbind(1)
        matrix = torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2).flatten(0, 1)
        mixed = torch.bmm(rows, matrix).view(modes, self.groups, batch, 2, -1)
        return mixed.permute(2, 3, 0, 1, 4).reshape(batch, 2, modes, width)


def resolved_modes(modes: int | tuple[int, ...], grid: tuple[int, ...], boundary: Boundary) -> tuple[int, ...]:
    """How many of `modes` each axis of a grid resolves.

    The first of two axes has signed modes, so without the shortest wave of an even grid, whose sign cannot be told.
    """
    periods = [cells if boundary == "periodic" else 2 * cells for cells in grid]
    resolved = [*((period + 1) // 2 for period in periods[:-1]), periods[-1] // 2 + 1]
    wanted = (modes,) * len(grid) if isinstance(modes, int) else modes
    return tuple(min(pair) for pair in zip(wanted, resolved, strict=True))


@functools.lru_cache(maxsize=64)
def _real_fourier(
    cells: int, modes: int, boundary: Boundary, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Unitary real DFT of the lowest modes (2 M, X) and its inverse (X, 2 M): cos rows, then -sin rows."""
    forth, period = _waves(cells, torch.arange(modes), boundary)
    # every mode but 0 and the shortest wave stands for itself and its conjugate
    twice = torch.full((modes, 1), 2.0, dtype=torch.float64)
    twice[0] = 1
    if 2 * (modes - 1) == period:
        twice[-1] = 1
    back = (forth * twice).flatten(0, 1)[:, :cells].T
    return _seen(forth, cells, boundary).flatten(0, 1).to(device, dtype), back.contiguous().to(device, dtype)


@functools.lru_cache(maxsize=64)
def _complex_fourier(
    cells: int, modes: int, boundary: Boundary, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Unitary DFT of modes -(M-1)..M-1, as real matrices (2 K, 2 X) and back (2 X, 2 K): real, then imaginary."""
    waves, _ = _waves(cells, torch.arange(1 - modes, modes), boundary)
    forth, back = _seen(waves, cells, boundary), waves[:, :, :cells]

    def complex_product(real: Tensor, imaginary: Tensor) -> Tensor:
        return torch.cat([torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)])

    inverse = complex_product(back[0].T, -back[1].T)
    return complex_product(forth[0], forth[1]).to(device, dtype), inverse.to(device, dtype)


def _waves(cells: int, modes: Tensor, boundary: Boundary) -> tuple[Tensor, int]:
    """cos and -sin of the modes over one period of the field as it goes on, (2, M, period), and that period."""
    period = cells if boundary == "periodic" else 2 * cells
    angle = 2 * math.pi / period * torch.outer(modes.double(), torch.arange(period).double())
    return torch.stack([angle.cos(), -angle.sin()]) / math.sqrt(period), period


def _seen(waves_2MP: Tensor, cells: int, boundary: Boundary) -> Tensor:
    """The transform of the continued field as one of the cells alone."""
    inside, outside = waves_2MP[..., :cells], waves_2MP[..., cells:]
    return inside + outside.flip(-1) if boundary == "neumann" else inside

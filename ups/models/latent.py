"""Encoder, operator and decoder as one model of canonical fields.

B batch, X cells of every axis, C channels, N tokens, D width, F condition features, P query points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups.core.errors import UserError
from ups.core.physics import EQUATIONS, Boundary
from ups.core.types import FieldSpec
from ups.models.decoder import AnyPointDecoder, Decoder, GridDecoder
from ups.models.encoder import GridEncoder, LatentConfig
from ups.models.operator import Operator


class LatentModel(nn.Module):
    """E, A and D. A field is advanced by the decoded change: w' = w + D(A(z)) - D(z) with z = E(w).

    So the untrained model predicts no change, and an error of reconstruction does not enter the prediction.
    A steady task has another quantity on the far side: u = D(A(E(a))), and a second encoder for u.
    """

    has_latent = True

    def __init__(
        self,
        encoder: GridEncoder.Config,
        operator: Operator,
        decoder: Decoder,
        latent: LatentConfig,
        spec: FieldSpec,
        features: int,
    ) -> None:
        super().__init__()
        self.cells = spec.cells
        self.boundary: Boundary = spec.boundary
        self.grid = latent.grid(spec.cells)
        self.steady = EQUATIONS[spec.equation].steady
        self.encoder = encoder.build(spec, latent)
        self.operator = operator.build(latent, features, self.grid, spec.boundary)
        self.decoder: GridDecoder | AnyPointDecoder = decoder.build(spec, latent)
        if self.steady:
            self.solution_encoder = encoder.build(spec, latent)

    def encode(self, field_BXC: Tensor) -> Tensor:
        """(B, X, C) on any grid -> (B, N, D); another grid is resampled to the training spacing."""
        return self.encoder(resample(field_BXC, self.cells, self.boundary))

    def encode_unnormalised(self, field_BXC: Tensor) -> Tensor:
        """The latent before its norm."""
        return self.encoder.unnormalised(resample(field_BXC, self.cells, self.boundary))

    def encode_solution(self, field_BXC: Tensor) -> Tensor:
        """The latent (B, N, D) of a solution, for steady tasks alone."""
        assert self.steady, "only steady tasks have a second encoder"
        return self.solution_encoder(resample(field_BXC, self.cells, self.boundary))

    def advance(self, latent_BND: Tensor, features_BF: Tensor) -> Tensor:
        return self.operator(latent_BND, features_BF)

    def decode(self, latent_BND: Tensor, cells: tuple[int, ...] | None = None, points: Tensor | None = None) -> Tensor:
        """The field (B, X, C) on a grid of `cells` (the training grid by default), or (B, P, C) at points (P, axes).

        Points are shares of the domain in [0, 1).

        Raises:
            UserError: the grid decoder has no values between the cells.
        """
        if points is not None:
            if not isinstance(self.decoder, AnyPointDecoder):
                raise UserError("points: the grid decoder knows its cells alone; choose decoder.kind anypoint")
            return self.decoder(latent_BND, points)
        if cells is None or tuple(cells) == self.cells:
            return self.decoder(latent_BND)
        if isinstance(self.decoder, AnyPointDecoder):
            places = grid_points(cells, self.cells, self.boundary, latent_BND.device)
            return self.decoder(latent_BND, places).unflatten(1, cells)
        return resample(self.decoder(latent_BND), cells, self.boundary)

    def step(self, field_BXC: Tensor, features_BF: Tensor) -> Tensor:
        """The field one frame later, or the steady solution."""
        cells = tuple(field_BXC.shape[1:-1])
        latent = self.encode(field_BXC)
        after = self.advance(latent, features_BF)
        if self.steady:
            return self.decode(after, cells)
        # one call of the decoder for both is cheaper than two
        decoded, decoded_after = self.decode(torch.cat([latent, after]), cells).chunk(2)
        return field_BXC + decoded_after - decoded


def grid_points(
    cells: tuple[int, ...], trained_cells: tuple[int, ...], boundary: Boundary, device: torch.device
) -> Tensor:
    """Shares of the domain (P, axes) where the points of another grid lie, both grids starting at the same point.

    Cells of strided files keep the position of their fine cell. Between walls, points beyond the last are kept inside.
    """
    axes = []
    for count, trained in zip(cells, trained_cells, strict=True):
        place = torch.arange(count, device=device) / count + 0.5 / trained
        axes.append(place % 1.0 if boundary == "periodic" else place.clamp(max=1 - 0.5 / count))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def resample(field_BXC: Tensor, cells: tuple[int, ...], boundary: Boundary = "periodic") -> Tensor:
    """The field at `cells` points along each axis that start at the same first point.

    Periodic: band-limited. Between walls: linear, and constant beyond the last point.
    """
    for axis, count in enumerate(cells, start=1):
        if field_BXC.shape[axis] != count:
            along = _band_limited if boundary == "periodic" else _linear
            field_BXC = along(field_BXC, axis, count)
    return field_BXC


def _band_limited(field: Tensor, axis: int, cells: int) -> Tensor:
    given = field.shape[axis]
    spectrum = torch.fft.rfft(field.float(), dim=axis)
    # the shortest wave is left out: its phase between the points is not known
    kept = (min(given, cells) + 1) // 2
    spectrum = spectrum.narrow(axis, 0, kept)
    after = [0, 0] * (field.ndim - 1 - axis)
    spectrum = F.pad(spectrum, (*after, 0, cells // 2 + 1 - kept))
    return (torch.fft.irfft(spectrum, n=cells, dim=axis) * (cells / given)).to(field.dtype)


def _linear(field: Tensor, axis: int, cells: int) -> Tensor:
    given = field.shape[axis]
    place = torch.arange(cells, device=field.device) * (given / cells)
    below = place.floor().long().clamp(max=given - 1)
    share = (place - below).to(field.dtype).view([-1 if other == axis else 1 for other in range(field.ndim)])
    above = field.index_select(axis, (below + 1).clamp(max=given - 1))
    return field.index_select(axis, below) * (1 - share) + above * share

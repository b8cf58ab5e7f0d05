"""Encoder, operator and decoder as one model of canonical fields. B batch, X cells, C channels, N tokens, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups.core.types import FieldSpec
from ups.models.decoder import AnyPointDecoder, Decoder, GridDecoder
from ups.models.encoder import GridEncoder, LatentConfig
from ups.models.operator import PdetStack


class LatentModel(nn.Module):
    """E, A and D. A field is advanced by the decoded change: w' = w + D(A(z)) - D(z) with z = E(w).

    So the untrained model predicts no change, and an error of reconstruction does not enter the prediction.
    """

    has_latent = True

    def __init__(
        self,
        encoder: GridEncoder.Config,
        operator: PdetStack.Config,
        decoder: Decoder,
        latent: LatentConfig,
        spec: FieldSpec,
        features: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder.build(spec, latent)
        self.operator = operator.build(latent, features)
        self.decoder: GridDecoder | AnyPointDecoder = decoder.build(spec, latent)
        self.cells = spec.cells[0]

    def encode(self, field_BXC: Tensor) -> Tensor:
        """(B, X, C) on any grid -> (B, N, D); another grid is resampled to the training spacing."""
        return self.encoder(resample(field_BXC, self.cells))

    def advance(self, latent_BND: Tensor, features_BF: Tensor) -> Tensor:
        return self.operator(latent_BND, features_BF)

    def decode(self, latent_BND: Tensor, cells: int | None = None) -> Tensor:
        """The field (B, X, C) at the centres of `cells` cells (the training grid by default)."""
        if cells is None or cells == self.cells:
            return self.decoder(latent_BND)
        if isinstance(self.decoder, AnyPointDecoder):
            # cells of strided files keep the position of their fine cell, so points start at the same offset
            return self.decoder(latent_BND, grid_points(cells, self.cells, latent_BND))
        return resample(self.decoder(latent_BND), cells)

    def step(self, field_BXC: Tensor, features_BF: Tensor) -> Tensor:
        latent = self.encode(field_BXC)
        after = self.advance(latent, features_BF)
        # one call of the decoder for both is cheaper than two
        decoded, decoded_after = self.decode(torch.cat([latent, after]), field_BXC.shape[1]).chunk(2)
        return field_BXC + decoded_after - decoded


def grid_points(cells: int, trained_cells: int, like: Tensor) -> Tensor:
    """Shares of the period where `cells` points lie, both grids starting at the same point."""
    return (torch.arange(cells, device=like.device) / cells + 0.5 / trained_cells) % 1.0


def resample(field_BXC: Tensor, cells: int) -> Tensor:
    """The band-limited periodic field at `cells` points that start at the same first point."""
    given = field_BXC.shape[1]
    if given == cells:
        return field_BXC
    spectrum = torch.fft.rfft(field_BXC.float(), dim=1)
    kept = min(given, cells) // 2
    spectrum = F.pad(spectrum[:, :kept], (0, 0, 0, cells // 2 + 1 - kept))
    return (torch.fft.irfft(spectrum, n=cells, dim=1) * (cells / given)).to(field_BXC.dtype)

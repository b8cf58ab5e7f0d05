"""The candidates of one step of a search: how they are drawn, kept, and recombined.

H hypotheses, W of each sample, K candidates of a hypothesis, X the cells of all axes, C channels, N tokens, D latent
width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ups.core.layers import rms_norm
from ups.core.runtime import generator
from ups.core.types import FieldSpec
from ups.inference.rewards import Judgement
from ups.inference.search_config import SearchConfig
from ups.inference.stretch import Stretch
from ups.models.corrector import Corrector

if TYPE_CHECKING:
    from ups.inference.surrogate import Surrogate


@dataclass(frozen=True)
class Candidates:
    """What was judged in a step, as it grows from round to round."""

    latent_HKND: Tensor
    field_HKXC: Tensor
    """physical, in the co-moving frame"""
    judgement: Judgement
    judged_HK: Tensor
    """False where the sample had stopped already: nothing was computed there"""

    @property
    def count(self) -> int:
        """of each hypothesis"""
        return self.latent_HKND.shape[1]

    @property
    def merit_HK(self) -> Tensor:
        """-inf where nothing was judged, and of a candidate that left the finite range"""
        merit_HK = self.judgement.merit_HK
        return merit_HK.masked_fill(~self.judged_HK | ~merit_HK.isfinite(), -torch.inf)

    def best(self) -> Tensor:
        """The latent of every hypothesis's best candidate, (H, N, D)."""
        best_H = self.merit_HK.argmax(1)
        return self.latent_HKND[torch.arange(len(best_H), device=best_H.device), best_H]

    def extend(self, other: Candidates) -> Candidates:
        """These and the others after them."""

        def joined(one: Tensor, two: Tensor) -> Tensor:
            return torch.cat([one, two], dim=1)

        a, b = self.judgement, other.judgement
        density = None
        if a.density_HKX is not None and b.density_HKX is not None:
            density = joined(a.density_HKX, b.density_HKX)
        return Candidates(
            joined(self.latent_HKND, other.latent_HKND),
            joined(self.field_HKXC, other.field_HKXC),
            Judgement(joined(a.score_HK, b.score_HK), joined(a.merit_HK, b.merit_HK), density),
            joined(self.judged_HK, other.judged_HK),
        )

    def recombined(self, spec: FieldSpec, grid: tuple[int, ...]) -> Tensor:
        """Every token of the grid from the candidate with the least density in it and its neighbours, (H, N, D)."""
        density = self.judgement.density_HKX
        assert density is not None, "the reward has no local term"
        by_cell = density.flatten(0, 1).unflatten(-1, spec.cells)
        by_token_HKN = pooled(by_cell, grid, periodic=spec.boundary == "periodic").unflatten(0, density.shape[:2])
        best_HN = by_token_HKN.nan_to_num(torch.inf).masked_fill(~self.judged_HK[..., None], torch.inf).argmin(1)
        index = best_HN[:, None, :, None].expand(-1, 1, -1, self.latent_HKND.shape[-1])
        return self.latent_HKND.gather(1, index)[:, 0]


class Draws:
    """Candidates around a centre: every draw is a function of (noise, step, hypothesis, number of the draw) alone."""

    def __init__(
        self,
        config: SearchConfig,
        surrogate: Surrogate,
        stretch: Stretch,
        base_HND: Tensor,
        noise: tuple[int, int, int],
        width: int,
    ) -> None:
        """Args: `stretch`: where the hypotheses stand, `base_HND`: A(z) of each, `noise`: seed, member and step."""
        assert stretch.latent is not None
        self.config, self.surrogate = config, surrogate
        self.latent_HND, self.base_HND, self.features = stretch.latent, base_HND, stretch.features
        self.noise, self.width = noise, width
        self.source_calls = 0
        """latents that the source's network was applied to"""
        self._end_without_noise: Tensor | None = None

    def around(self, centre_HND: Tensor, first: int, count: int, index: int, active: Tensor | None = None) -> Tensor:
        """Draws `first`, `first + 1`, ... in round `index`, (H, count, N, D).

        Args:
            active: hypotheses to draw for; the others get the centre. All by default.
        """
        config, shrink = self.config, self.config.round_decay**index
        rows = torch.arange(len(centre_HND), device=centre_HND.device) if active is None else active
        drawn_AKND = centre_HND[rows, None].expand(-1, count, -1, -1)
        if config.source != "none":
            drawn_AKND = self._sampled(centre_HND, rows, first, count, shrink)
        if config.noise_std:
            drawn_AKND = drawn_AKND + config.noise_std * shrink * self._normal("candidate", first, count)[rows]
        drawn_AKND = rms_norm(drawn_AKND)
        if active is None:
            return drawn_AKND
        return centre_HND[:, None].repeat(1, count, 1, 1).index_copy(0, active, drawn_AKND)

    def _sampled(self, centre_HND: Tensor, rows: Tensor, first: int, count: int, shrink: float) -> Tensor:
        source = self.surrogate.corrections[self.config.source]
        assert isinstance(source, Corrector)
        end_AKND = self._ends(self.config.temperature * self._normal("source", first, count)[rows], rows)
        if self.config.around == "operator":
            return self.base_HND[rows, None] + self.config.source_scale * source.scale * end_AKND
        if self._end_without_noise is None:
            every = torch.arange(len(centre_HND), device=rows.device)
            self._end_without_noise = self._ends(torch.zeros_like(centre_HND)[:, None], every)
        deviation_AKND = source.scale * (end_AKND - self._end_without_noise[rows])
        return centre_HND[rows, None] + self.config.source_scale * shrink * deviation_AKND

    def _ends(self, start_HKND: Tensor, active: Tensor) -> Tensor:
        """The end of the source's flow from every start, all in one call."""
        rows, count = start_HKND.shape[:2]
        held = (self.base_HND, self.latent_HND, self.features)
        given = (each[active].repeat_interleave(count, 0) for each in held)
        end = self.surrogate.flow_end(self.config.source, start_HKND.flatten(0, 1), *given)
        self.source_calls += rows * count * self.surrogate.calls_of(self.config.source)
        return end.unflatten(0, (rows, count))

    def _normal(self, name: str, first: int, count: int) -> Tensor:
        """(H, count, N, D), the same for every sample of the batch."""
        shape, rows = self.base_HND.shape[1:], len(self.base_HND)
        drawn = [
            torch.randn(shape, generator=generator(name, *self.noise, slot, number))
            for slot in range(self.width)
            for number in range(first, first + count)
        ]
        noise_WKND = torch.stack(drawn).unflatten(0, (self.width, count)).to(self.base_HND)
        return noise_WKND.repeat(rows // self.width, 1, 1, 1)


def shared_out(candidates: int, rounds: int) -> list[int]:
    """Candidates of each round, the earlier ones first to get one more."""
    rounds = min(rounds, candidates)
    return [candidates // rounds + (index < candidates % rounds) for index in range(rounds)]


def pooled(density: Tensor, grid: tuple[int, ...], *, periodic: bool) -> Tensor:
    """Means over tokens, each with its neighbours: (R, cells...) -> (R, N), one or two axes."""
    # one axis as two, of which the second has one cell
    flat = len(grid) == 1
    shape = (grid[0], 1 if flat else grid[1])
    by_token = F.adaptive_avg_pool2d(density[:, None, :, None] if flat else density[:, None], shape)
    pad = (0, 0, 1, 1) if flat else (1, 1, 1, 1)
    by_token = F.pad(by_token, pad, mode="circular" if periodic else "replicate")
    return F.avg_pool2d(by_token, (3, 1) if flat else (3, 3), stride=1)[:, 0].flatten(1)

"""Where a rollout stands between two encodings, and the parts of one step from there.

B batch, K results of A for each sample, X all spatial axes, Q query cells, C channels, N tokens, D latent width,
F condition features.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ups.core.layers import rms_norm
from ups.models.latent import LatentModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ups.inference.surrogate import Surrogate


@dataclass(frozen=True)
class LatentStep:
    """One step of a latent model in canonical units: what the fields of a step were computed from."""

    canonical_BXC: Tensor
    """the field that was encoded, of this step or of an earlier one"""
    features_BF: Tensor
    offset: Tensor
    scale: Tensor
    unnormalised_BND: Tensor | None
    """the latent before its RMS norm, where it was asked for and has just been encoded"""
    latent_BND: Tensor
    base_BND: Tensor
    """A(z)"""
    after_BND: Tensor
    """A(z) as corrected; without a correction the same"""
    decoded_BXC: Tensor | None
    """D(z) of the latent that was encoded; None where it was not needed, or only query points were decoded"""
    predicted_BXC: Tensor | None
    """None where only query points were decoded"""


@dataclass(frozen=True)
class Stretch:
    """Where a rollout stands between two encodings."""

    surrogate: Surrogate
    canonical: Tensor
    """what was encoded"""
    features: Tensor
    offset: Tensor
    scale: Tensor
    steps: int
    """how many are made from this encoding"""
    queries_Q: Tensor | None
    latent: Tensor | None = None
    unnormalised: Tensor | None = None
    decoded: Tensor | None = None
    rest: Tensor | None = None
    """what the decoder leaves out of the canonical field, once it was needed"""

    @classmethod
    def enter(
        cls, surrogate: Surrogate, field_BXC: Tensor, parameters_BP: Tensor, steps: int, queries_Q: Tensor | None
    ) -> Stretch:
        canonical, features, offset, scale = surrogate.normalise(field_BXC, parameters_BP)
        return cls(surrogate, canonical, features, offset, scale, steps, queries_Q)

    def encode(self, model: LatentModel, keep_unnormalised: bool) -> Stretch:
        if not keep_unnormalised:
            return replace(self, latent=model.encode(self.canonical))
        unnormalised = model.encode_unnormalised(self.canonical)
        return replace(self, latent=rms_norm(unnormalised), unnormalised=unnormalised)

    def map(self, change: Callable[[Tensor], Tensor]) -> Stretch:
        """Every tensor that has the batch as its first axis, changed."""
        held: dict[str, Any] = {
            each.name: change(getattr(self, each.name))
            for each in fields(self)
            if each.name != "queries_Q" and isinstance(getattr(self, each.name), Tensor)
        }
        return replace(self, **held)

    def detach(self) -> Stretch:
        return self.map(Tensor.detach)

    def select(self, rows: Tensor) -> Stretch:
        """The samples of these rows."""
        return self.map(lambda value: value.index_select(0, rows))

    def advance(self, model: LatentModel, noise: tuple[int, int, int]) -> tuple[Tensor, Stretch, LatentStep]:
        """The next physical frame, where the rollout stands then, and the parts of the step."""
        assert self.latent is not None
        base = model.advance(self.latent, self.features)
        after = self.surrogate.correct(self.latent, base, self.features, noise)
        here, predicted_BK = self.land(model, after[:, None])
        predicted = predicted_BK[:, 0]
        whole = self.queries_Q is None
        parts = LatentStep(
            self.canonical,
            self.features,
            self.offset,
            self.scale,
            self.unnormalised,
            self.latent,
            base,
            after,
            here.decoded if whole else None,
            predicted if whole else None,
        )
        return self.physical(predicted), here.follow(after), parts

    def land(self, model: LatentModel, afters_BKND: Tensor) -> tuple[Stretch, Tensor]:
        """The canonical fields (B, K, X, C) of K results of A for each sample, in one call of the decoder; and the
        stretch, which has decoded what it needed for that."""
        assert self.latent is not None
        batch, candidates = afters_BKND.shape[:2]
        alone, steady = self.steps == 1, self.surrogate.equation.steady
        decoded, rest = self.decoded, self.rest
        if rest is None and not alone and not steady:
            decoded = self._decode(model, self.latent)
            rest = self._given() - decoded
        if alone and not steady and decoded is None:
            # one call of the decoder for all is cheaper than two
            both = self._decode(model, torch.cat([self.latent, afters_BKND.flatten(0, 1)]))
            decoded, landed = both[:batch], both[batch:].unflatten(0, (batch, candidates))
        else:
            landed = self._decode(model, afters_BKND.flatten(0, 1)).unflatten(0, (batch, candidates))
        if steady:
            predicted = landed
        elif alone:
            assert decoded is not None
            predicted = self._given()[:, None] + landed - decoded[:, None]
        else:
            assert rest is not None
            predicted = rest[:, None] + landed
        return replace(self, decoded=decoded, rest=rest), predicted

    def follow(self, after_BND: Tensor) -> Stretch:
        """Where the rollout stands after a step that ended at this latent."""
        return replace(self, latent=after_BND, unnormalised=None)

    def physical(self, canonical: Tensor) -> Tensor:
        if self.queries_Q is None:
            return self.surrogate.physical(canonical, self.offset, self.scale)
        return canonical * self.scale.flatten(1, -2) + self.offset.flatten(1, -2)

    def _given(self) -> Tensor:
        return self.canonical if self.queries_Q is None else gather(self.canonical, self.queries_Q, 1)

    def _decode(self, model: LatentModel, latent_BND: Tensor) -> Tensor:
        if self.queries_Q is None:
            return model.decode(latent_BND, tuple(self.canonical.shape[1:-1]))
        return model.decode(latent_BND, points=cell_centres(self.queries_Q, self.surrogate.spec.cells))


def gather(fields: Tensor, queries_Q: Tensor, first_axis: int) -> Tensor:
    """The cells `queries_Q` of the flattened grid; spatial axes start at `first_axis`, channel last."""
    return fields.flatten(first_axis, -2).index_select(first_axis, queries_Q)


def cell_centres(queries_Q: Tensor, cells: tuple[int, ...]) -> Tensor:
    """(Q, axes) shares of the domain where the training cells lie."""
    places = []
    for axis in reversed(cells):
        places.append((queries_Q % axis + 0.5) / axis)
        queries_Q = queries_Q // axis
    return torch.stack(places[::-1], dim=-1)

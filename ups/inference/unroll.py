"""The steps of a rollout, one after the other: deployment, training and the collection of latents all take these.

B batch, h frames, X all spatial axes, Q query cells, C channels, N tokens, D latent width, F condition features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ups.core.layers import rms_norm
from ups.models.decoder import AnyPointDecoder
from ups.models.latent import LatentModel

if TYPE_CHECKING:
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
class Step:
    number: int
    """from 1"""
    field: Tensor
    """physical, in the co-moving frame; (B, Q, C) where only query points were decoded"""
    latent: LatentStep | None
    """None for field-space models"""


def unroll(
    surrogate: Surrogate,
    start_BXC: Tensor,
    parameters_BP: Tensor,
    steps: int,
    mode: str,
    *,
    noise: tuple[int, int] = (0, 0),
    pushforward: bool = False,
    queries_Q: Tensor | None = None,
    keep_unnormalised: bool = False,
) -> Iterator[Step]:
    """Steps 1..steps from a field in the co-moving frame; a pure function of its arguments, differentiable.

    Args:
        mode: `latent`: encode once; `reencode`: again after every `inference.reencode_every` steps.
        noise: seed and member of the correction's noise.
        pushforward: only steps 1 and `steps`, the latter from a state without gradient.
        queries_Q: decode at these cells of the training grid alone, see `decodes_at_points`.
        keep_unnormalised: also give the first latent before its norm.
    """
    model = surrogate.model
    stride = 1
    if isinstance(model, LatentModel):
        stride = steps if mode == "latent" else surrogate.inference.reencode_every
    field, stretch = start_BXC, None
    for number in range(1, steps + 1):
        cut = pushforward and number > 1
        parts = None
        with _gradient(not cut or number == steps):
            if (number - 1) % stride == 0:
                field = field.detach() if cut else field
                stretch = _Stretch.enter(surrogate, field, parameters_BP, min(stride, steps - number + 1), queries_Q)
                if isinstance(model, LatentModel):
                    stretch = stretch.encode(model, keep_unnormalised and number == 1)
            elif cut:
                assert stretch is not None
                stretch = stretch.detach()
            assert stretch is not None
            if isinstance(model, LatentModel):
                field, stretch, parts = stretch.advance(model, (*noise, number - 1))
            else:
                field = stretch.physical(model.step(stretch.canonical, stretch.features))
        if not pushforward or number in (1, steps):
            yield Step(number, field, parts)


def decodes_at_points(surrogate: Surrogate, steps: int, mode: str) -> bool:
    """Whether the frames can be decoded at query points alone, exactly.

    The decoder must allow it, no frame may be encoded again, and no mean over all cells may be taken out of it.
    """
    model = surrogate.model
    if not isinstance(model, LatentModel) or not isinstance(model.decoder, AnyPointDecoder):
        return False
    one_stretch = mode == "latent" or steps <= surrogate.inference.reencode_every
    return one_stretch and not surrogate.frame.subtracts_mean


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


@dataclass(frozen=True)
class _Stretch:
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
    ) -> _Stretch:
        canonical, features, offset, scale = surrogate.normalise(field_BXC, parameters_BP)
        return cls(surrogate, canonical, features, offset, scale, steps, queries_Q)

    def encode(self, model: LatentModel, keep_unnormalised: bool) -> _Stretch:
        if not keep_unnormalised:
            return replace(self, latent=model.encode(self.canonical))
        unnormalised = model.encode_unnormalised(self.canonical)
        return replace(self, latent=rms_norm(unnormalised), unnormalised=unnormalised)

    def detach(self) -> _Stretch:
        return replace(
            self,
            canonical=self.canonical.detach(),
            features=self.features.detach(),
            offset=self.offset.detach(),
            scale=self.scale.detach(),
            latent=None if self.latent is None else self.latent.detach(),
            decoded=None if self.decoded is None else self.decoded.detach(),
            rest=None if self.rest is None else self.rest.detach(),
        )

    def advance(self, model: LatentModel, noise: tuple[int, int, int]) -> tuple[Tensor, _Stretch, LatentStep]:
        """The next physical frame, where the rollout stands then, and the parts of the step."""
        assert self.latent is not None
        alone, steady = self.steps == 1, self.surrogate.equation.steady
        decoded, rest = self.decoded, self.rest
        if rest is None and not alone and not steady:
            decoded = self._decode(model, self.latent)
            rest = self._given() - decoded
        base = model.advance(self.latent, self.features)
        after = self.surrogate.correct(self.latent, base, self.features, noise)
        if steady:
            predicted = self._decode(model, after)
        elif alone:
            # one call of the decoder for both is cheaper than two
            decoded, decoded_after = self._decode(model, torch.cat([self.latent, after])).chunk(2)
            predicted = self._given() + decoded_after - decoded
        else:
            assert rest is not None
            predicted = rest + self._decode(model, after)
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
            decoded if whole else None,
            predicted if whole else None,
        )
        following = replace(self, latent=after, unnormalised=None, decoded=decoded, rest=rest)
        return self.physical(predicted), following, parts

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


@contextmanager
def _gradient(tracked: bool) -> Iterator[None]:
    """Without gradient where `tracked` is false; never with one where there was none."""
    with torch.set_grad_enabled(tracked and torch.is_grad_enabled()):
        yield

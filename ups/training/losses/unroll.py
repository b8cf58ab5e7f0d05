"""The predicted frames of a training batch, with what the first step was computed from.

B batch, h frames, X all spatial axes, Q query cells, C channels, N tokens, D latent width, F condition features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ups.core.layers import rms_norm
from ups.inference.surrogate import Surrogate
from ups.models.decoder import AnyPointDecoder
from ups.models.latent import LatentModel


@dataclass(frozen=True)
class FirstStep:
    """One step of a latent model in canonical units; the inverse terms take from here what is already computed."""

    canonical_BXC: Tensor
    offset: Tensor
    scale: Tensor
    unnormalised_BND: Tensor | None
    """the latent before its RMS norm, where it was asked for"""
    latent_BND: Tensor
    after_BND: Tensor
    decoded_BXC: Tensor | None
    """D(z); None for steady tasks and where only query points were decoded"""
    predicted_BXC: Tensor | None
    """None where only query points were decoded"""


@dataclass(frozen=True)
class Unrolled:
    frames_BhXC: Tensor
    """physical, in the co-moving frame; (B, h, Q, C) where only query points were decoded"""
    steps: tuple[int, ...]
    """which steps these frames are, from 1"""
    first: FirstStep | None
    """None for field-space models"""


def unroll(
    surrogate: Surrogate,
    start_BXC: Tensor,
    parameters_BP: Tensor,
    steps: int,
    mode: str,
    *,
    pushforward: bool = False,
    queries_Q: Tensor | None = None,
    keep_unnormalised: bool = False,
) -> Unrolled:
    """The frames of `Surrogate.unroll`, number for number, and the parts of the first step.

    Args:
        pushforward: only steps 1 and `steps`, the latter from a state without gradient.
        queries_Q: decode at these cells alone, see `decodes_at_points`.
        keep_unnormalised: also keep the first latent before its norm.
    """
    model = surrogate.model
    stride = (
        1 if not isinstance(model, LatentModel) else steps if mode == "latent" else surrogate.inference.reencode_every
    )
    frames: list[Tensor] = []
    kept: list[int] = []
    first: FirstStep | None = None
    field, stretch = start_BXC, None
    for step in range(1, steps + 1):
        cut = pushforward and step > 1
        with _gradient(not cut or step == steps):
            if (step - 1) % stride == 0:
                field = field.detach() if cut else field
                stretch = _Stretch.enter(surrogate, field, parameters_BP, min(stride, steps - step + 1), queries_Q)
                if isinstance(model, LatentModel):
                    stretch = stretch.encode(model, keep_unnormalised and step == 1)
            elif cut:
                assert stretch is not None
                stretch = stretch.detach()
            assert stretch is not None
            if isinstance(model, LatentModel):
                field, stretch, parts = stretch.advance(model)
                first = first or parts
            else:
                field = stretch.physical(model.step(stretch.canonical, stretch.features))
        if not pushforward or step in (1, steps):
            frames.append(field)
            kept.append(step)
    return Unrolled(torch.stack(frames, dim=1), tuple(kept), first)


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
            rest=None if self.rest is None else self.rest.detach(),
        )

    def advance(self, model: LatentModel) -> tuple[Tensor, _Stretch, FirstStep]:
        """The next physical frame, where the rollout stands then, and the parts of the step."""
        assert self.latent is not None
        alone = self.steps == 1
        decoded, rest = None, self.rest
        if rest is None and not alone and not self.surrogate.equation.steady:
            decoded = self._decode(model, self.latent)
            rest = self._given() - decoded
        after = model.advance(self.latent, self.features)
        if self.surrogate.equation.steady:
            predicted = self._decode(model, after)
        elif alone:
            # one call of the decoder for both is cheaper than two
            decoded, decoded_after = self._decode(model, torch.cat([self.latent, after])).chunk(2)
            predicted = self._given() + decoded_after - decoded
        else:
            assert rest is not None
            predicted = rest + self._decode(model, after)
        whole = self.queries_Q is None
        parts = FirstStep(
            self.canonical,
            self.offset,
            self.scale,
            self.unnormalised,
            self.latent,
            after,
            decoded if whole else None,
            predicted if whole else None,
        )
        return self.physical(predicted), replace(self, latent=after, rest=rest), parts

    def physical(self, canonical: Tensor) -> Tensor:
        if self.queries_Q is None:
            return self.surrogate.physical(canonical, self.offset, self.scale)
        return canonical * self.scale.flatten(1, -2) + self.offset.flatten(1, -2)

    def _given(self) -> Tensor:
        return self.canonical if self.queries_Q is None else gather(self.canonical, self.queries_Q, 1)

    def _decode(self, model: LatentModel, latent_BND: Tensor) -> Tensor:
        if self.queries_Q is None:
            return model.decode(latent_BND)
        return model.decode(latent_BND, points=cell_centres(self.queries_Q, self.surrogate.spec.cells))


@contextmanager
def _gradient(tracked: bool) -> Iterator[None]:
    """Without gradient where `tracked` is false; never with one where there was none."""
    with torch.set_grad_enabled(tracked and torch.is_grad_enabled()):
        yield

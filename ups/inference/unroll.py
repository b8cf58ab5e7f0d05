"""The steps of a rollout, one after the other: deployment, training and the collection of latents all take these.

B batch, h frames, X all spatial axes, Q query cells, C channels, N tokens, D latent width, F condition features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ups.inference.stretch import LatentStep, Stretch
from ups.models.decoder import AnyPointDecoder
from ups.models.latent import LatentModel

if TYPE_CHECKING:
    from ups.inference.surrogate import Surrogate


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
                stretch = Stretch.enter(surrogate, field, parameters_BP, min(stride, steps - number + 1), queries_Q)
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


@contextmanager
def _gradient(tracked: bool) -> Iterator[None]:
    """Without gradient where `tracked` is false; never with one where there was none."""
    with torch.set_grad_enabled(tracked and torch.is_grad_enabled()):
        yield

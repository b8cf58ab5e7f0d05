"""The terms of the operator stage's loss, each a function of the batch's prediction.

B batch, h predicted frames, X all spatial axes, C channels, N tokens, D latent width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ups.inference.stretch import LatentStep
from ups.models.latent import LatentModel
from ups.training.losses import physics
from ups.training.losses.prediction import Prediction


def relative_error(prediction: Tensor, truth: Tensor, size: Tensor) -> Tensor:
    """Mean squared error over `size`, the truth's mean square and a floor: (B, h, X.., C) -> (B, h, C).

    The square root is nRMSE. Prediction and truth may be given at sampled cells, with the size of the whole field:
    then the mean over draws is the error over all cells.
    """
    return (prediction - truth).square().mean(_space(prediction)) / size


def inverse_encoding(prediction: Prediction) -> Tensor:
    """Mean square of decode(encode(u)) - u in canonical units, u the given field or, of steady tasks, the solution."""
    model, first = _latent_parts(prediction)
    if not prediction.surrogate.equation.steady:
        assert first.decoded_BXC is not None
        return (first.decoded_BXC - first.canonical_BXC).square().mean()
    solution = (prediction.truth_BhXC[:, 0] - first.offset) / first.scale
    return (model.decode(model.encode_solution(solution)) - solution).square().mean()


def inverse_decoding(prediction: Prediction) -> Tensor:
    """Mean square of encode(decoded prediction) - advanced latent.

    Both have unit rms per token, so the term cannot be lowered by shrinking them.
    """
    model, first = _latent_parts(prediction)
    assert first.predicted_BXC is not None
    encode = model.encode_solution if prediction.surrogate.equation.steady else model.encode
    detach = prediction.losses.inverse_decoding.detach_target
    target = first.after_BND.detach() if detach else first.after_BND
    return (encode(first.predicted_BXC) - target).square().mean()


def latent_norm(prediction: Prediction) -> Tensor:
    """Mean of (rms over D of the un-normalised latent - 1)^2."""
    _, first = _latent_parts(prediction)
    assert first.unnormalised_BND is not None
    # the derivative of the root is infinite at 0
    rms_BN = (first.unnormalised_BND.square().mean(-1) + 1e-12).sqrt()
    return (rms_BN - 1).square().mean()


def spectral(prediction: Prediction) -> Tensor:
    """Squared difference of |rfft| over space, relative to the truth's, over all modes that rfft keeps."""
    space = _space(prediction.frames_BhXC)
    ours, true = (
        torch.fft.rfftn(fields.float(), dim=space, norm="forward").abs()
        for fields in (prediction.frames_BhXC, prediction.truth_BhXC)
    )
    return ((ours - true).square().sum(space) / (true.square().sum(space) + prediction.floor_B1C)).mean()


def mean(prediction: Prediction) -> Tensor:
    """Squared change of the spatial mean since the given frame, in deviations."""
    before_B1C = prediction.given_BXC.flatten(1, -2).mean(1, keepdim=True)
    change_BhC = prediction.frames_BhXC.flatten(2, -2).mean(2) - before_B1C
    return (change_BhC / prediction.std_C).square().mean()


TERMS: dict[str, Callable[[Prediction], Tensor]] = {
    "inverse_encoding": inverse_encoding,
    "inverse_decoding": inverse_decoding,
    "spectral": spectral,
    "mean": mean,
    "physics.residual": physics.residual,
    "physics.divergence": physics.divergence,
    "physics.boundary": physics.boundary,
    "physics.positivity": physics.positivity,
    "latent_norm": latent_norm,
}
"""by their paths in the config, in the order in which they are added up"""


def _latent_parts(prediction: Prediction) -> tuple[LatentModel, LatentStep]:
    assert isinstance(prediction.surrogate.model, LatentModel)
    assert prediction.first is not None
    return prediction.surrogate.model, prediction.first


def _space(fields_BhXC: Tensor) -> tuple[int, ...]:
    return tuple(range(2, fields_BhXC.ndim - 1))

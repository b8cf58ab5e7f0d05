"""The terms of the operator stage's loss. B batch, h steps, X cells, C channels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ups.core.schema import Schema
from ups.inference.surrogate import Surrogate
from ups.models.latent import LatentModel
from ups.training.batches import Batch
from ups.training.curriculum import InverseLossConfig, RolloutLossConfig


class ForwardLossConfig(Schema):
    weight: float = Field(1.0, gt=0)


class LossesConfig(Schema):
    """Weights and curricula of the operator stage's terms."""

    error: Literal["nrmse", "relative_mse"] = "nrmse"
    """what forward and rollout terms average over samples and frames: nRMSE as the score does, or its square"""
    forward: ForwardLossConfig = ForwardLossConfig()
    rollout: RolloutLossConfig = RolloutLossConfig()
    inverse_encoding: InverseLossConfig = InverseLossConfig()
    inverse_decoding: InverseLossConfig = InverseLossConfig()

    def needs_latent(self) -> bool:
        return self.inverse_encoding.weight > 0 or self.inverse_decoding.weight > 0


def relative_error(prediction: Tensor, truth: Tensor, floor: Tensor) -> Tensor:
    """Mean squared error over the truth's mean square, per sample and frame: (B, h, X, C) -> (B, h).

    `floor` (a squared deviation) keeps a vanishing truth from dominating. The square root is nRMSE.
    """
    return (prediction - truth).square().mean((2, 3)) / (truth.square().mean((2, 3)) + floor)


def operator_loss(
    surrogate: Surrogate,
    batch: Batch,
    losses: LossesConfig,
    *,
    steps: int,
    mode: str,
    inverse_encoding: float,
    inverse_decoding: float,
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum and each term's value. The window holds the given frame and `steps` further ones.

    The relative errors are those of the physical fields: the frame's mean is put back into the denominator.
    """
    mean = surrogate.frame.mean(batch.fields_BTXC[:, 0])
    moving = surrogate.frame.enter(batch.fields_BTXC[:, : steps + 1], mean)
    start, truth = moving[:, 0], moving[:, 1:]
    predicted = surrogate.unroll(start, batch.parameters_BP, steps, mode)
    floor = (0.01 * torch.tensor(surrogate.normalizer.std, device=start.device)).square().mean()
    # mean square of v + m with zero-mean v: what nRMSE divides by
    error_Bh = relative_error(predicted, truth, floor + mean.square().mean((2, 3)))
    if losses.error == "nrmse":
        # the derivative of the root is infinite at a perfect prediction, such as a field that no longer changes
        error_Bh = (error_Bh + 1e-12).sqrt()
    terms = {"forward": error_Bh[:, 0].mean()}
    total = losses.forward.weight * terms["forward"]
    if steps > 1:
        terms["rollout"] = error_Bh[:, 1:].mean()
        total = total + losses.rollout.weight * terms["rollout"]
    if isinstance(surrogate.model, LatentModel) and (inverse_encoding > 0 or inverse_decoding > 0):
        encoding, decoding = inverse_terms(surrogate, surrogate.model, start, batch.parameters_BP)
        terms |= {"inverse_encoding": encoding, "inverse_decoding": decoding}
        total = total + inverse_encoding * encoding + inverse_decoding * decoding
    return total, {name: float(value.detach()) for name, value in terms.items()}


def inverse_terms(
    surrogate: Surrogate, model: LatentModel, start_BXC: Tensor, parameters_BP: Tensor
) -> tuple[Tensor, Tensor]:
    """(decode(encode(u)) against u, encode(decoded prediction) against the advanced latent), mean squares."""
    canonical, features, _, _ = surrogate.normalise(start_BXC, parameters_BP)
    cells = canonical.shape[1]
    latent = model.encode(canonical)
    decoded = model.decode(latent, cells)
    after = model.advance(latent, features)
    predicted = canonical + model.decode(after, cells) - decoded
    return (decoded - canonical).square().mean(), (model.encode(predicted) - after).square().mean()

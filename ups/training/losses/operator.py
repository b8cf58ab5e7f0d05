"""The operator stage's loss of one batch: the weighted sum of its terms. B batch, h steps, X all axes, C channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ups.inference.stretch import gather
from ups.inference.surrogate import Surrogate
from ups.inference.unroll import decodes_at_points, unroll
from ups.training.batches import Batch
from ups.training.losses.config import LossesConfig
from ups.training.losses.prediction import Prediction
from ups.training.losses.terms import TERMS, relative_error


def operator_loss(
    surrogate: Surrogate,
    batch: Batch,
    losses: LossesConfig,
    *,
    steps: int,
    mode: str,
    weights: Mapping[str, float] | None = None,
    queries_Q: Tensor | None = None,
    space_stride: int = 1,
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum and each term's value. The window holds the given frame and `steps` further ones.

    The relative errors are those of the physical fields: the frame's mean is put back into the denominator.

    Args:
        mode: `latent` or `reencode`.
        weights: of the terms beside forward and rollout, all positive; a term that is not named is not computed.
        queries_Q: cells of the flattened grid at which forward and rollout terms look; None for all.
        space_stride: that of the task, which says how far the walls are from the cells.
    """
    weights = weights or {}
    # every other term reads the whole predicted field
    at_points = queries_Q is not None and set(weights) <= {"latent_norm"} and decodes_at_points(surrogate, steps, mode)
    mean = surrogate.frame.mean(batch.fields_BTXC[:, 0])
    moving = surrogate.frame.enter(batch.fields_BTXC[:, : steps + 1], mean)
    made = list(
        unroll(
            surrogate,
            moving[:, 0],
            batch.parameters_BP,
            steps,
            mode,
            pushforward=losses.rollout.pushforward,
            queries_Q=queries_Q if at_points else None,
            keep_unnormalised="latent_norm" in weights,
        )
    )
    prediction = Prediction(
        surrogate=surrogate,
        losses=losses,
        parameters_BP=batch.parameters_BP,
        mean_B1XC=mean,
        given_BXC=moving[:, 0],
        truth_BhXC=moving[:, 1:] if len(made) == steps else moving[:, [step.number for step in made]],
        frames_BhXC=torch.stack([step.field for step in made], dim=1),
        first=made[0].latent,
        space_stride=space_stride,
    )
    error_BhC = _errors(prediction, queries_Q, at_points)
    if losses.error == "nrmse":
        # the derivative of the root is infinite at a perfect prediction, such as a field that no longer changes
        error_BhC = (error_BhC + 1e-12).sqrt()
    terms = {"forward": error_BhC[:, 0].mean()}
    total = losses.forward.weight * terms["forward"]
    if steps > 1:
        terms["rollout"] = error_BhC[:, 1:].mean()
        total = total + losses.rollout.weight * terms["rollout"]
    for name, term in TERMS.items():
        if name in weights:
            terms[name] = term(prediction)
            total = total + weights[name] * terms[name]
    # one transfer from the device for all of them
    values = torch.stack([value.detach().float() for value in terms.values()]).tolist()
    return total, dict(zip(terms, values, strict=True))


def _errors(prediction: Prediction, queries_Q: Tensor | None, at_points: bool) -> Tensor:
    """Relative squared errors (B, h, C); the size that they are relative to is always that of the whole field."""
    frames, truth = prediction.frames_BhXC, prediction.truth_BhXC
    size_BhC = truth.square().mean(tuple(range(2, truth.ndim - 1))) + prediction.floor_B1C
    if queries_Q is not None:
        truth = gather(truth, queries_Q, 2)
        frames = frames if at_points else gather(frames, queries_Q, 2)
    return relative_error(frames, truth, size_BhC)

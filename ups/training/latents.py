"""Latents of the frozen encoder and operator, computed once and kept: what the flows of the later stages train on.

M pairs, B batch, N tokens, D latent width, F condition features, X cells, C channels, T frames.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core.layers import rms_norm
from ups.data.task import Task
from ups.inference.surrogate import Surrogate
from ups.inference.unroll import unroll
from ups.models.latent import LatentModel
from ups.training.batches import WindowSampler

VERSION = 1
"""raised by hand when the content of cached pairs changes"""
_BATCH = 32


@dataclass(frozen=True)
class Pairs:
    """Steps of the frozen operator beside what they should have been. On disk memory maps, float32."""

    latent: NDArray[np.float32]
    """(M, N, D) z, where the operator started"""
    base: NDArray[np.float32]
    """(M, N, D) A(z)"""
    target: NDArray[np.float32]
    """(M, N, D) what A(z) should have been"""
    features: NDArray[np.float32]
    """(M, F) the step's condition"""

    def __len__(self) -> int:
        return len(self.latent)

    def rows(self, index: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(latent, base, target, features) of some pairs, in the order of `index`."""
        order = np.argsort(index)  # disks like ascending rows
        back = np.argsort(order)
        parts = (np.asarray(getattr(self, each.name)[index[order]])[back] for each in fields(self))
        latent, base, target, features = (torch.from_numpy(part).to(device) for part in parts)
        return latent, base, target, features


def write_pairs(
    folder: Path,
    surrogate: Surrogate,
    task: Task,
    *,
    windows_per_trajectory: int,
    horizon: int,
    seed: int,
    augment: bool,
    encoded: bool,
) -> None:
    """Fill `folder` with the pairs of the training split.

    Every window starts at a true frame and goes on with the operator's own predictions: pairs are taken after
    0..horizon of its steps, because residuals at true frames are smaller than those that a rollout meets.
    The target is E(u') where `encoded`, else `decoded_target`.
    """
    steady = surrogate.equation.steady
    frames = 2 if steady else min(horizon + 2, task.train.fields_STXC.shape[1])
    sampler = WindowSampler.of_task(task, _BATCH, windows_per_trajectory, seed, augment)
    batches = sampler.batches_per_epoch
    rows = batches * _BATCH * (frames - 1)
    arrays: dict[str, np.memmap] = {}
    place = 0
    for index in range(batches):
        batch = sampler.batch(index, frames)
        for step in _steps(surrogate, batch.fields_BTXC, batch.parameters_BP, encoded):
            count = len(step[0])
            for each, values in zip(fields(Pairs), step, strict=True):
                if each.name not in arrays:
                    shape = (rows, *values.shape[1:])
                    path = folder / f"{each.name}.npy"
                    arrays[each.name] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                    _reserve(path)
                arrays[each.name][place : place + count] = values.float().cpu().numpy()
            place += count
    assert place == rows, (place, rows)
    for array in arrays.values():
        array.flush()


def _reserve(path: Path) -> None:
    """Take the room of a file that is going to be written through a map: later a full disk would kill the process.

    Raises:
        OSError: there is none.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def open_pairs(folder: Path) -> Pairs:
    return Pairs(*(np.load(folder / f"{each.name}.npy", mmap_mode="r") for each in fields(Pairs)))


def residual_scale(pairs: Pairs) -> float:
    """Root mean square of target - base over all pairs."""
    total, count = 0.0, 0
    for at in range(0, len(pairs), 256):
        data = pairs.target[at : at + 256].astype(np.float64) - pairs.base[at : at + 256]
        total, count = total + float(np.square(data).sum()), count + data.size
    # a perfect operator leaves nothing to be scaled
    return max(math.sqrt(total / count), 1e-8)


@torch.no_grad()
def _steps(
    surrogate: Surrogate, fields_BTXC: Tensor, parameters_BP: Tensor, encoded: bool
) -> Iterator[tuple[Tensor, ...]]:
    """(latent, base, target, features) of each step of the operator's own rollout through the window."""
    model = surrogate.model
    assert isinstance(model, LatentModel)
    assert surrogate.correction == "none"
    device = surrogate.reference_F.device
    fields_BTXC, parameters_BP = fields_BTXC.to(device), parameters_BP.to(device)
    steady = surrogate.equation.steady
    moving = surrogate.frame.enter(fields_BTXC, surrogate.frame.mean(fields_BTXC[:, 0]))
    mode = surrogate.inference.rollout
    for step in unroll(surrogate, moving[:, 0], parameters_BP, moving.shape[1] - 1, mode):
        made = step.latent
        assert made is not None
        truth = (moving[:, step.number] - made.offset) / made.scale
        if encoded:
            target = model.encode_solution(truth) if steady else model.encode(truth)
        else:
            # what the decoder leaves out of the field it was given stays left out
            rest = 0.0 if made.decoded_BXC is None else made.canonical_BXC - made.decoded_BXC
            target = decoded_target(model, made.base_BND, truth - rest)
        yield made.latent_BND, made.base_BND, target, made.features_BF


_NEWTON_STEPS = 2
_ITERATIONS = 8


def decoded_target(model: LatentModel, base_BND: Tensor, wanted_BXC: Tensor) -> Tensor:
    """The latent next to `base` that decodes to `wanted`, of unit rms.

    E(u') would decode to the truth only as well as D inverts E, which is far worse than A predicts: the change is what
    D was trained for. This is the least change of the operator's result that mends its decoded prediction:
    Gauss-Newton steps, each solved by a few iterations of CGLS (Hestenes and Stiefel 1952), which start at zero and so
    stay orthogonal to what D does not see.
    """
    latent = base_BND
    for _ in range(_NEWTON_STEPS):

        def decode(change: Tensor, latent: Tensor = latent) -> Tensor:
            return model.decode(rms_norm(latent + change))

        zero = torch.zeros_like(latent)
        linear = torch.func.vjp(decode, zero)
        latent = rms_norm(latent + _cgls(decode, linear[1], zero, wanted_BXC - linear[0]))
    return latent


def _cgls(decode: Callable[[Tensor], Tensor], pull: Callable[..., Any], zero: Tensor, rest: Tensor) -> Tensor:
    """Least squares of J x = rest, J the derivative of `decode` at zero, for each sample on its own."""
    x, gradient = zero, pull(rest)[0]
    direction, size = gradient, _square(gradient)
    for _ in range(_ITERATIONS):
        image = torch.func.jvp(decode, (zero,), (direction,))[1]
        step = size / _square(image).clamp_min(1e-30)
        x = x + _each(step, x) * direction
        rest = rest - _each(step, rest) * image
        gradient = pull(rest)[0]
        before, size = size, _square(gradient)
        direction = gradient + _each(size / before.clamp_min(1e-30), x) * direction
    return x


def _square(values: Tensor) -> Tensor:
    return values.square().flatten(1).sum(1)


def _each(number_B: Tensor, like: Tensor) -> Tensor:
    return number_B.view(-1, *(1 for _ in like.shape[1:]))

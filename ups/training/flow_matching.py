"""Conditional flow matching on cached latents: what diffusion residual and steady prior have in common.

B batch, N tokens, D latent width. Every random number is a function of the seed and the index of the batch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from ups.core.ranks import ALONE, Part, Ranks
from ups.core.runtime import generator
from ups.data.task import Task, Trajectories
from ups.evaluation.evaluate import score
from ups.inference.surrogate import Correction, Surrogate
from ups.models.corrector import Corrector
from ups.training.latents import Pairs
from ups.training.stage_config import StageConfig

TauSampling = Literal["uniform", "beta", "stratified"]


class PairStageConfig(StageConfig):
    """A stage that trains on cached latents; `epochs` 0 leaves it out."""

    epochs: int = Field(0, ge=0)

    @property
    def steps_before(self) -> int:
        """The operator's own steps before a pair is taken: 0 to this many."""
        return 0

    @property
    def encoded_target(self) -> bool:
        """Whether a pair's target is the encoded truth."""
        return False


class RolloutPairStageConfig(PairStageConfig):
    """One whose pairs are met in rollouts."""

    horizon: int = Field(3, ge=0)
    """the operator's own steps before a pair is taken: 0 to this many"""

    @property
    def steps_before(self) -> int:
        return self.horizon


class FlowConfig(PairStageConfig):
    """A stage that learns a flow."""

    tau_sampling: TauSampling = "stratified"
    """of the flow times of a batch: independent and uniform; Beta(2, 2), more in the middle; or one in each of as many
    equal bins as the batch has samples"""
    target: Literal["decoded", "encoded"] = "decoded"
    """what A(z) should have been: the latent nearest to it that decodes to the truth, or the encoded truth"""
    tau_min: float = Field(0.0, ge=0, lt=1)
    tau_max: float = Field(1.0, gt=0, le=1)
    """drawn times are rescaled to [tau_min, tau_max]; sampling starts at 0, so nothing is cut off"""

    @property
    def encoded_target(self) -> bool:
        return self.target == "encoded"

    @model_validator(mode="after")
    def _range(self) -> FlowConfig:
        if self.tau_min >= self.tau_max:
            raise ValueError(f"needs tau_min < tau_max, got {self.tau_min:g} and {self.tau_max:g}")
        return self


class PairSampler:
    """Batches of pairs without state: a permutation for each epoch."""

    def __init__(self, pairs: Pairs, batch_size: int, seed: int) -> None:
        self.pairs = pairs
        self.batch_size = min(batch_size, len(pairs))
        self.seed = seed
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return len(self.pairs) // self.batch_size

    def batch(
        self, index: int, device: torch.device, part: Part | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(latent, base, target, features) of the `index`-th batch of the stage, or of the part that one rank has."""
        epoch, place = divmod(index, self.batches_per_epoch)
        if self._order is None or self._order[0] != epoch:
            drawn = torch.randperm(len(self.pairs), generator=generator(self.seed, "pairs", epoch))
            self._order = epoch, drawn.numpy()
        rows = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return self.pairs.rows(rows if part is None else rows[part.rows], device)


class FlowStage:
    """Trains `correction` to carry noise to the data that turn A(z) into the encoded truth."""

    Config = FlowConfig
    name: str
    deployed_as: Correction

    def __init__(
        self,
        config: FlowConfig,
        correction: Corrector,
        surrogate: Surrogate,
        task: Task,
        pairs: Pairs,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.model: nn.Module = correction
        self.correction = correction
        self.surrogate = surrogate
        self.validation = task.validation
        self.sampler = PairSampler(pairs, config.batch_size, seed)
        self.part = ranks.part(self.sampler.batch_size)
        self.seed = seed
        # what a run is worth is decided by its operator
        self.no_skill: float | None = None

    @property
    def batches_per_epoch(self) -> int:
        return self.sampler.batches_per_epoch

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        """The squared error of the predicted end point: (1 - tau)^2 times that of the velocity, finite at tau = 1."""
        part = self.part
        latent, base, target, features = self.sampler.batch(index, self.correction.scale.device, part)
        data = self.correction.data_of(base, target)
        tau_B = draw_tau(self.config, part.of, self.seed, index)[part.rows].to(data)
        noise = torch.randn((part.of, *data.shape[1:]), generator=generator(self.seed, "flow noise", index))
        noise = noise[part.rows].to(data)
        x = noise + tau_B[:, None, None] * (data - noise)
        error = (self.correction.end_point(x, tau_B, base, latent, features) - data).square().mean()
        return error, {"flow": float(error.detach())}

    def score(self, model: nn.Module) -> float:
        assert isinstance(model, Corrector)
        return score_with(self.surrogate, {self.deployed_as: model}, self.deployed_as, self.validation)


def draw_tau(config: FlowConfig, count: int, seed: int, index: int) -> Tensor:
    """`count` flow times in [tau_min, tau_max]."""
    draw = generator(seed, "tau", index)
    if config.tau_sampling == "beta":
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=draw)))
        unit = torch.from_numpy(random.beta(2.0, 2.0, count))
    else:
        unit = torch.rand(count, generator=draw, dtype=torch.float64)
        if config.tau_sampling == "stratified":
            unit = (unit + torch.arange(count)) / count
    return (config.tau_min + (config.tau_max - config.tau_min) * unit).float()


def score_with(
    surrogate: Surrogate, corrections: dict[str, Corrector], deployed: Correction, validation: Trajectories
) -> float:
    """Validation rollout_nrmse of the operator with one of these corrections."""
    whole = surrogate.with_inference(corrector="auto").with_corrections(corrections, deployed).eval()
    return score(whole, validation)

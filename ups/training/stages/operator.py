"""The operator stage: encoder, operator and decoder (or a field-space baseline) trained together."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from ups.core.ranks import ALONE, Ranks
from ups.core.runtime import RuntimeConfig
from ups.data.task import Task
from ups.evaluation.evaluate import score
from ups.evaluation.rows import no_skill
from ups.inference.surrogate import Surrogate
from ups.training.batches import Batch, WindowSampler
from ups.training.losses import LossesConfig, operator_loss
from ups.training.stage_config import StageConfig


class OperatorStage:
    """Loss of model.md section 4 on windows of the training split; score on the validation split.

    Raises:
        ConfigError: a loss term that means nothing for the task.
    """

    class Config(StageConfig):
        epochs: int = Field(10, ge=1)
        losses: LossesConfig = Field(default_factory=LossesConfig)

    name = "operator"

    def __init__(
        self, config: Config, surrogate: Surrogate, task: Task, runtime: RuntimeConfig, ranks: Ranks = ALONE
    ) -> None:
        config.losses.check(task.spec, symmetry=surrogate.symmetry, has_latent=surrogate.has_latent)
        self.config = config
        self.model: nn.Module = surrogate
        self.surrogate = surrogate
        self.validation = task.validation
        self.seed = runtime.seed
        self.space_stride = task.config.space_stride
        self.sampler = WindowSampler.of_task(
            task, config.batch_size, config.windows_per_trajectory, runtime.seed, config.augment
        )
        self.part = ranks.part(config.batch_size)
        self.no_skill: float | None = score(no_skill(task.spec, task.normalizer), task.validation)

    @property
    def batches_per_epoch(self) -> int:
        return self.sampler.batches_per_epoch

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        losses = self.config.losses
        frames = self.sampler.trajectories.fields_STXC.shape[1]
        steps = min(losses.rollout.steps_at(share, index), frames - 1)
        device = self.surrogate.reference_F.device
        batch = self.sampler.batch(index, steps + 1, self.part)
        queries_Q = losses.queries.draw(self.surrogate.spec.cells, self.seed, index)
        return operator_loss(
            self.surrogate,
            Batch(batch.fields_BTXC.to(device), batch.parameters_BP.to(device)),
            losses,
            steps=steps,
            mode=self._mode(index),
            weights=losses.weights(index, epoch, self.config.epochs),
            queries_Q=None if queries_Q is None else queries_Q.to(device),
            space_stride=self.space_stride,
        )

    def score(self, model: nn.Module) -> float:
        assert isinstance(model, Surrogate)
        model.eval()
        return score(model, self.validation)

    def _mode(self, index: int) -> str:
        mode = self.config.losses.rollout.mode
        if mode == "deployed":
            return self.surrogate.inference.rollout
        if mode == "alternate":
            return "latent" if index % 2 else "reencode"
        return mode

"""The operator stage: encoder, operator and decoder (or a field-space baseline) trained together."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from ups.baselines.persistence import InitialMean
from ups.core.runtime import RuntimeConfig
from ups.data.task import Task
from ups.evaluation.evaluate import score
from ups.inference.surrogate import Surrogate
from ups.training.batches import Batch, WindowSampler
from ups.training.loop import StageConfig
from ups.training.losses import LossesConfig, operator_loss


class OperatorStage:
    """Loss of model.md section 4 on windows of the training split; score on the validation split."""

    class Config(StageConfig):
        losses: LossesConfig = Field(default_factory=LossesConfig)

    name = "operator"

    def __init__(self, config: Config, surrogate: Surrogate, task: Task, runtime: RuntimeConfig) -> None:
        self.config = config
        self.model: nn.Module = surrogate
        self.surrogate = surrogate
        self.validation = task.validation
        self.sampler = WindowSampler(
            task.train,
            task.spec.equation,
            config.batch_size,
            config.windows_per_trajectory,
            runtime.seed,
            config.augment,
        )
        self.no_skill = score(InitialMean(task.spec), task.validation)

    @property
    def batches_per_epoch(self) -> int:
        return self.sampler.batches_per_epoch

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        losses = self.config.losses
        frames = self.sampler.trajectories.fields_STXC.shape[1]
        steps = min(losses.rollout.steps_at(share, index), frames - 1)
        device = next(self.model.parameters()).device
        batch = self.sampler.batch(index, steps + 1)
        batch = Batch(batch.fields_BTXC.to(device), batch.parameters_BP.to(device))
        return operator_loss(
            self.surrogate,
            batch,
            losses,
            steps=steps,
            mode=self._mode(index),
            inverse_encoding=self._inverse("inverse_encoding", index, epoch),
            inverse_decoding=self._inverse("inverse_decoding", index, epoch),
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

    def _inverse(self, name: str, index: int, epoch: float) -> float:
        term = getattr(self.config.losses, name)
        return 0.0 if index % term.every else term.at(epoch, self.config.epochs)

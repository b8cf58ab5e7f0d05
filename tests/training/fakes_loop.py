"""A stage of a few numbers, so that the loop's own promises can be tested in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups.core.ranks import Part
from ups.core.runtime import RuntimeConfig, generator
from ups.core.types import Progress
from ups.training.loop import StageResult, train_stage
from ups.training.stage_config import LoggingConfig, StageConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.mix, self.out = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.drop(self.mix(F.gelu(self.lift(x))))))


class NoisyStage:
    """Regression with dropout and noise: the loss draws from torch's global generator."""

    name = "noisy"

    def __init__(self, config: StageConfig, *, no_skill: float | None = None, noise: float = 0.1) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = Net()
        self.no_skill = no_skill
        self.noise = noise
        self.batches_per_epoch = 5
        self.part = Part.whole(16)
        draw = generator("data")
        self.inputs, self.targets = torch.randn(64, 6, generator=draw), torch.randn(64, 3, generator=draw)

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, 64, (16,), generator=generator("rows", index))
        inputs = self.inputs[rows]
        inputs = inputs + self.noise * torch.randn_like(inputs)
        error = (self.model(inputs) - self.targets[rows]).square().mean()
        return error, {"error": float(error.detach())}

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        return float((model.eval()(self.inputs) - self.targets).square().mean())


def train(
    stage: NoisyStage,
    folder: Path,
    report: Callable[[Progress], Any] = lambda progress: None,
    *,
    resume: bool = False,
    **runtime: Any,
) -> StageResult:
    return train_stage(
        stage,
        folder=folder,
        facts={},
        runtime=RuntimeConfig.parse(runtime),
        logging=LoggingConfig(log_every_n_steps=1),
        report=report,
        resume=resume,
    )

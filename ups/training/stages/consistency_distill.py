"""Consistency distillation: a student that reaches the end of the teacher's trajectories in one or two evaluations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ups.core.ranks import ALONE, Ranks
from ups.core.runtime import generator
from ups.data.task import Task
from ups.inference.surrogate import Correction, InferenceConfig, Surrogate
from ups.models.corrector import Corrector, Student
from ups.training.flow_matching import PairSampler, RolloutPairStageConfig, score_with
from ups.training.latents import Pairs


class ConsistencyDistillStage:
    """The student maps every point of a trajectory of the frozen, deployed sampler to that trajectory's end.

    The target is the teacher's result, never zero: `distance` of a student that predicts no correction is 1.
    """

    class Config(RolloutPairStageConfig):
        pass

    name = "consistency_distill"
    deployed_as: Correction = "student"

    def __init__(
        self,
        config: Config,
        student: Student,
        teacher: Corrector,
        surrogate: Surrogate,
        task: Task,
        pairs: Pairs,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.model: nn.Module = student
        self.student = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.surrogate = surrogate
        self.validation = task.validation
        self.sampler = PairSampler(pairs, config.batch_size, seed)
        self.part = ranks.part(self.sampler.batch_size)
        self.seed = seed
        self.no_skill: float | None = None

    @property
    def batches_per_epoch(self) -> int:
        return self.sampler.batches_per_epoch

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        """Squared distance to the teacher's end point from a random point of its trajectory, start included."""
        part = self.part
        latent, base, _, features = self.sampler.batch(index, self.student.scale.device, part)
        draw = generator(self.seed, "distillation", index)
        noise = torch.randn((part.of, *base.shape[1:]), generator=draw)[part.rows].to(base)
        path = teacher_path(self.teacher, self.surrogate.inference, noise, base, latent, features)
        steps = path.shape[1] - 1
        place_B = torch.randint(0, steps, (part.of,), generator=draw)
        # half of the batch at the start, where one-step sampling begins
        place_B[: part.of // 2] = 0
        place_B = place_B[part.rows].to(base.device)
        x = path[torch.arange(len(base), device=base.device), place_B]
        end = self.student.end_point(x, place_B / steps, base, latent, features)
        error_B = (end - path[:, -1]).square().mean((1, 2))
        # of each sample, so that parts of a batch can be averaged
        distance_B = (error_B.detach() / path[:, -1].square().mean((1, 2)).clamp_min(1e-12)).sqrt()
        return error_B.mean(), {"distance": float(distance_B.mean())}

    def score(self, model: nn.Module) -> float:
        assert isinstance(model, Student)
        return score_with(self.surrogate, {"student": model}, "student", self.validation)


@torch.no_grad()
def teacher_path(
    teacher: Corrector, inference: InferenceConfig, noise: Tensor, base: Tensor, latent: Tensor, features: Tensor
) -> Tensor:
    """States (B, steps + 1, N, D) of the teacher as it is deployed, its temperature included."""
    start = inference.temperature * noise
    return teacher.integrate(start, base, latent, features, inference.sampler_steps, inference.solver)

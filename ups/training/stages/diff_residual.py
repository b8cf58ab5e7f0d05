"""The diffusion residual: a flow in latent space from noise to what the frozen operator leaves out."""

from __future__ import annotations

from ups.inference.surrogate import Correction
from ups.training.flow_matching import FlowConfig, FlowStage, RolloutPairStageConfig


class DiffResidualStage(FlowStage):
    """Flow matching of r = E(u') - A(z); scored by the rollout with one sampled residual a step."""

    class Config(FlowConfig, RolloutPairStageConfig):
        pass

    name = "diff_residual"
    deployed_as: Correction = "diffusion"

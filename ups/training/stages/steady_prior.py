"""The steady prior: a flow in latent space from noise to the solution of a steady task."""

from __future__ import annotations

from ups.inference.surrogate import Correction
from ups.training.flow_matching import FlowConfig, FlowStage


class SteadyPriorStage(FlowStage):
    """Flow matching of E_u(u) given the encoded coefficient field; scored by one draw of it."""

    class Config(FlowConfig):
        pass

    name = "steady_prior"
    deployed_as: Correction = "prior"

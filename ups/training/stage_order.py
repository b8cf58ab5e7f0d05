"""The stages in the order in which they are trained, and what of them goes together."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ups.core.schema import Schema
from ups.inference.surrogate import Correction
from ups.training.stages.consistency_distill import ConsistencyDistillStage
from ups.training.stages.diff_residual import DiffResidualStage
from ups.training.stages.operator import OperatorStage
from ups.training.stages.steady_prior import SteadyPriorStage

DEPLOYED_AS: dict[str, Correction] = {
    "diff_residual": "diffusion",
    "consistency_distill": "student",
    "steady_prior": "prior",
}
SEARCH = "inference"
"""what the search at test time is called beside the stages"""


class StagesConfig(Schema):
    """The stages in the order in which they are trained; `epochs: 0`, or null, leaves a later one out."""

    operator: OperatorStage.Config = Field(default_factory=OperatorStage.Config)
    diff_residual: DiffResidualStage.Config = Field(default_factory=DiffResidualStage.Config)
    consistency_distill: ConsistencyDistillStage.Config = Field(default_factory=ConsistencyDistillStage.Config)
    steady_prior: SteadyPriorStage.Config = Field(default_factory=SteadyPriorStage.Config)

    @field_validator("diff_residual", "consistency_distill", "steady_prior", mode="before")
    @classmethod
    def _null_is_off(cls, value: Any) -> Any:
        return {} if value is None else value

    def later(self) -> list[str]:
        """The names of the stages after the operator's that are on."""
        return [name for name in DEPLOYED_AS if getattr(self, name).epochs > 0]

    def check(self, *, steady: bool, has_latent: bool) -> None:
        """Raises ValueError for stages that do not go together, or not with the task."""
        later = self.later()
        if later and not has_latent:
            raise ValueError(f"a baseline has no latent: stages.{later[0]}.epochs must be 0")
        if "consistency_distill" in later and "diff_residual" not in later:
            raise ValueError("stages.consistency_distill needs a teacher: stages.diff_residual.epochs must be above 0")
        if steady and "diff_residual" in later:
            raise ValueError(
                "a steady task has no time: its prior is stages.steady_prior, set diff_residual.epochs to 0"
            )
        if not steady and "steady_prior" in later:
            raise ValueError("stages.steady_prior is for steady tasks, set its epochs to 0")

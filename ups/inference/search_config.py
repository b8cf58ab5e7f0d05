"""The settings of a search at test time: what a user writes under `ttc`, or into the file of `ups evaluate --ttc`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ups.core.schema import Schema
from ups.inference.rewards import AdaptiveReward, RewardConfig


class SearchConfig(Schema):
    """How a rollout is searched at test time; nothing of it is trained."""

    enabled: bool = False
    steps: int | None = Field(None, ge=1)
    """rollout steps that are searched, from the first; null for all"""
    candidates: int = Field(8, ge=1)
    """states of each hypothesis that are judged in a step, the plain one and a recombined one included"""
    choice: Literal["sample", "token"] = "token"
    """sample: a candidate is taken or left as a whole; token: the last candidate of a round takes every token from the
    candidate that is locally best around it; of a reward without a local term (maximum_principle, residual,
    positivity) nothing can be recombined, so that every candidate is a draw"""
    source: Literal["none", "diffusion", "student"] = "none"
    """the sampled correction that candidates come from; none: Gaussian noise alone"""
    around: Literal["proposal", "operator"] = "proposal"
    """proposal: draws deviate from the best so far as samples of the source deviate from its sample without noise;
    operator: every draw is A(z) with a sampled residual"""
    temperature: float = Field(1.0, gt=0)
    """deviation of the noise that the source starts from"""
    source_scale: float = Field(1.0, gt=0)
    """share of a sampled deviation that is applied"""
    noise_std: float = Field(0.002, ge=0)
    """deviation of the Gaussian noise on latents, whose rms is 1"""
    rounds: int = Field(1, ge=1)
    """the candidates of a step are drawn in so many rounds, each around the best so far"""
    round_decay: float = Field(0.5, gt=0, le=1)
    """schedule of the draws: noise and deviations shrink by this factor from round to round"""
    beam_width: int = Field(1, ge=1)
    """hypotheses that survive a step"""
    horizon: int = Field(1, ge=1)
    """steps that a candidate is judged by: its own, and plain ones after it"""
    max_evaluations: int = Field(64, ge=1)
    """most states of one trajectory that are judged in one rollout step, looked-ahead ones included"""
    early_stop: float | None = Field(None, gt=0)
    """no further round, and no look-ahead, once the best leads by so many deviations of the merits; null: never"""
    reward: RewardConfig = Field(default_factory=AdaptiveReward, discriminator="kind")

    @model_validator(mode="after")
    def _usable(self) -> SearchConfig:
        if self.source == "none" and self.noise_std == 0 and self.candidates > 1:
            raise ValueError("without a source and with noise_std 0 all candidates are equal: set one of them")
        if self.source == "none" and self.around == "operator":
            raise ValueError("around: operator needs a source of residuals, diffusion or student")
        if self.around == "operator" and self.rounds > 1:
            raise ValueError("around: operator does not refine what was found: set rounds to 1")
        if self.max_evaluations < self.least_evaluations:
            raise ValueError(
                f"max_evaluations must be at least {self.least_evaluations} for two candidates of each of "
                f"{self.beam_width} hypotheses and a horizon of {self.horizon}, got {self.max_evaluations}"
            )
        if self.rounds > self.candidates:
            raise ValueError(f"rounds must be at most candidates, got {self.rounds} and {self.candidates}")
        return self

    @property
    def look_ahead(self) -> int:
        """Evaluations of a step that are kept for looking ahead from one more candidate than survives."""
        return 0 if self.candidates == 1 else (self.beam_width + 1) * (self.horizon - 1)

    @property
    def least_evaluations(self) -> int:
        """Of a step in which every hypothesis has a choice, and the look-ahead has one."""
        return 1 if self.candidates == 1 else 2 * self.beam_width + self.look_ahead

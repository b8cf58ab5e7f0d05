"""What every stage is told: its length, its batches, its optimizer, and how much is written on the way."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from ups.core.schema import Schema
from ups.core.tracking import WandbConfig
from ups.training.guard import GuardConfig
from ups.training.optim import EmaConfig, OptimizerConfig, ScheduleConfig

SAME_SHARE = 1e-9
"""shares that differ by less are the same: one may be a quotient of steps, the other what somebody wrote"""


class Change(Schema):
    """Other settings of the optimizer from a share of the stage on; null leaves one as it was."""

    share: float = Field(gt=0, lt=1)
    """of the stage; the updates of batches that begin there or later"""
    lr: float | None = Field(None, gt=0)
    """instead of optimizer.lr; the schedule's factor goes on with it"""
    weight_decay: float | None = Field(None, ge=0)
    """instead of optimizer.weight_decay"""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.lr is None and self.weight_decay is None:
            raise ValueError("a change gives lr, weight_decay or both")
        return self

    @property
    def settings(self) -> dict[str, float]:
        """Those that it gives."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        return {name: value for name, value in given.items() if value is not None}


class StageConfig(Schema):
    """What every stage has of its own."""

    epochs: int = Field(10, ge=0)
    """0 or null: the stage is off"""
    windows_per_trajectory: int = Field(4, ge=1)
    """training windows drawn from each trajectory in an epoch"""
    time_limit_seconds: float | None = Field(None, gt=0)
    """ends the stage early; schedule and curricula then follow the larger share of steps and time, so that the
    stage is complete when it ends. A run with a limit does not repeat bit for bit."""
    batch_size: int = Field(16, ge=1)
    accumulation_steps: int = Field(1, ge=1)
    grad_clip: float | None = Field(1.0, gt=0)
    grad_clip_per_param: bool = False
    augment: bool = True
    """random shifts and reflections where they are exact symmetries of the equation"""
    optimizer: OptimizerConfig = OptimizerConfig()
    changes: tuple[Change, ...] = ()
    """settings of the optimizer that change on the way: what population based training learns is such a list"""
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    guard: GuardConfig = GuardConfig()
    validations: int = Field(8, ge=1)
    """validation scores are measured at the shares k/validations of the stage; milestones are some of these"""

    @field_validator("epochs", mode="before")
    @classmethod
    def _null_is_off(cls, value: Any) -> Any:
        return 0 if value is None else value

    @field_validator("changes")
    @classmethod
    def _in_their_order(cls, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        shares = [change.share for change in changes]
        if shares != sorted(set(shares)):
            raise ValueError(f"shares must increase, got {shares}")
        return changes

    def changed(self, share: float) -> dict[str, float]:
        """The settings of the optimizer that hold at a share of the stage in place of its first ones."""
        settings: dict[str, float] = {}
        for change in self.changes:
            if share >= change.share - SAME_SHARE:
                settings |= change.settings
        return settings


class LoggingConfig(Schema):
    """How much is written while training. Does not change what is learned."""

    log_every_n_steps: int = Field(20, ge=1)
    checkpoint_every_n_epochs: int = Field(5, ge=1)
    """besides the checkpoint at each validation"""
    keep_at: tuple[float, ...] = ()
    """shares of every stage, each with a validation, at which its state goes into the store: a run whose `changes`
    begin there goes on from it"""
    wandb: WandbConfig = WandbConfig()

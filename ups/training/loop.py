"""The only training loop. A stage says its loss and its score; everything else is here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ups.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ups.core.runtime import (
    RuntimeConfig,
    compiled,
    compiles,
    deterministic_mode,
    is_out_of_memory,
    own_randomness,
    peak_memory_gib,
    reset_peak_memory,
    seed_all,
)
from ups.core.schema import Schema
from ups.core.types import Progress, Report, Status
from ups.training.guard import Exploded, GradientGuard, GuardConfig, clip_gradients
from ups.training.optim import EmaConfig, OptimizerConfig, ScheduleConfig
from ups.training.state import TrainState

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


class Stage(Protocol):
    """What the loop asks of a stage."""

    name: str
    model: nn.Module
    """what is trained, averaged and saved as best; frozen parts that a stage reads are not in it"""

    @property
    def no_skill(self) -> float | None:
        """Score of the predictor without skill on the validation split; not better at half time is STALLED.

        None: the stage is never STALLED.
        """
        ...

    @property
    def config(self) -> StageConfig: ...

    @property
    def batches_per_epoch(self) -> int: ...

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        """The loss of the `index`-th batch and its terms.

        torch's global generator is seeded anew for every batch: what the loss draws from it, resuming repeats.
        """
        ...

    def score(self, model: nn.Module) -> float:
        """Lower is better: validation rollout_nrmse of `model` as it would be deployed, if nothing else is said."""
        ...


@dataclass(frozen=True)
class StageResult:
    status: Status
    reason: str
    best: float | None
    milestones: dict[str, float]
    seconds: float
    steps: int
    skipped: int
    warnings: list[str]
    peak_memory_gib: float
    """the most that was in use at once: of the device on CUDA, else of the whole process"""


def _keep_nothing(share: float, seconds: float) -> None:
    return None


def train_stage(
    stage: Stage,
    *,
    folder: Path,
    facts: dict[str, Any],
    runtime: RuntimeConfig,
    logging: LoggingConfig,
    report: Report,
    resume: bool,
    keep: Callable[[float, float], None] = _keep_nothing,
) -> StageResult:
    """Train to the end of the stage, or to the status that ends it; `folder` gets `best` and `last`.

    `keep` is called with the share and the seconds so far while both hold the state at a share of `logging.keep_at`.
    Expected failures are a status of the result; what `report` raises passes through, and `last` stays usable.
    """
    guard = GradientGuard(stage.config.guard, stage.name)
    state = TrainState.start(stage.model, stage.config.optimizer.build(stage.model), guard)
    last = folder / "last.safetensors"
    if resume and last.is_file():
        state.restore(load_checkpoint(last))
    run = _StageRun(stage, state, folder, facts, runtime, logging, report, keep)
    reset_peak_memory(run.device)
    try:
        with (
            own_randomness(run.device),
            deterministic_mode(runtime.deterministic),
            compiled(stage.model, compiles(runtime.compile, run.device)),
        ):
            status, reason = run.to_end()
    except Exploded as explosion:
        status, reason = (
            Status.EXPLODED,
            f"{explosion}; last rollout_nrmse {_shown(_latest(state.milestones))}",
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status, reason = Status.OUT_OF_MEMORY, _memory_reason(stage, state.step, run.device)
    return StageResult(
        status,
        reason,
        state.best,
        dict(state.milestones),
        state.seconds,
        state.step,
        guard.skipped,
        list(guard.warnings),
        peak_memory_gib(run.device),
    )


@dataclass
class _StageRun:
    stage: Stage
    state: TrainState
    folder: Path
    facts: dict[str, Any]
    runtime: RuntimeConfig
    logging: LoggingConfig
    report: Report
    keep: Callable[[float, float], None]

    def __post_init__(self) -> None:
        self.config = self.stage.config
        self.total = self.config.epochs * self.stage.batches_per_epoch
        self.device = next(self.stage.model.parameters()).device
        self._tick = time.perf_counter()

    def share(self) -> float:
        done = self.state.step / self.total if self.total else 1.0
        limit = self.config.time_limit_seconds
        return min(1.0, max(done, self.state.seconds / limit) if limit else done)

    def to_end(self) -> tuple[Status, str]:
        state = self.state
        self.stage.model.train()
        while (share := self.share()) < 1.0:
            loss, terms = self._step(share)
            self._lap()
            if self._validation_is_due():
                verdict = self._validate(loss, terms)
                if verdict is not None:
                    return verdict
            elif state.step % (self.logging.checkpoint_every_n_epochs * self.stage.batches_per_epoch) == 0:
                self._save("last")
            if state.step % self.logging.log_every_n_steps == 0:
                self.report(self._progress(loss, terms))
        return Status.COMPLETE, ""

    def _step(self, share: float) -> tuple[float, dict[str, float]]:
        state, config, model = self.state, self.config, self.stage.model
        epoch = share * config.epochs
        seed_all(self.device, self.runtime.seed, self.stage.name, state.step)
        bf16 = self.runtime.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss, terms = self.stage.loss(state.step, epoch, share)
        value = float(loss.detach())
        self.state.guard.check_loss(value, state.step + 1)
        (loss / config.accumulation_steps).backward()
        state.step += 1
        if state.step % config.accumulation_steps == 0 or self.share() >= 1.0:
            admitted, norm = state.guard.admits(model, state.step)
            # a norm that is not finite was counted by the guard; the last finite one is what can be shown
            state.gradient_norm = norm if math.isfinite(norm) else state.gradient_norm
            if admitted:
                clip_gradients(state.parameters, config.grad_clip, config.grad_clip_per_param, norm)
                factor, changed = config.schedule.factor(share), config.changed(share)
                for group in state.optimizer.param_groups:
                    group["lr"] = changed.get("lr", group["initial_lr"]) * factor
                    if "weight_decay" in changed and group["decays"]:
                        group["weight_decay"] = changed["weight_decay"]
                state.optimizer.step()
                state.updates += 1
                state.update_ema(config.ema.at(state.updates))
            state.optimizer.zero_grad(set_to_none=True)
        return value, terms

    def _validation_is_due(self) -> bool:
        return self._reached() > len(self.state.milestones)

    def _reached(self) -> int:
        return math.floor(self.share() * self.config.validations + 1e-9)

    def _validate(self, loss: float, terms: dict[str, float]) -> tuple[Status, str] | None:
        state = self.state
        score = self.stage.score(state.ema)
        self.stage.model.train()
        self._lap()
        no_skill = math.inf if self.stage.no_skill is None else self.stage.no_skill
        hopeless = not math.isfinite(score) or (self.share() >= 0.5 and score >= no_skill)
        if hopeless and state.guard.skipped_in_row:
            # a short stage is validated before the guard has lost its patience
            raise state.guard.exploded()
        if not math.isfinite(score):
            reason = f"validation rollout_nrmse is not finite at step {state.step} of {self.stage.name}"
            return Status.NOT_FINITE, reason
        if state.best is None or score < state.best:
            state.best = score
            self._save("best")
        # a long step may pass several marks of a time limit at once: they share this measurement
        for k in range(len(state.milestones) + 1, self._reached() + 1):
            state.milestones[f"{self.stage.name}:{k / self.config.validations:g}"] = score
        self._save("last")
        stalled = self.share() >= 0.5 and state.best is not None and state.best >= no_skill
        mark = self._reached() / self.config.validations
        if not stalled and any(abs(mark - share) < SAME_SHARE for share in self.logging.keep_at):
            # before the report: whoever hears of it may go on from there at once
            self.keep(mark, state.seconds)
        self.report(self._progress(loss, terms, score))
        self._tick = time.perf_counter()
        if stalled:
            return Status.STALLED, (
                f"best rollout_nrmse {_shown(state.best)} at {self.share():.0%} of {self.stage.name} is not below "
                f"the constant initial mean's {_shown(no_skill)}"
            )
        return None

    def _progress(self, loss: float, terms: dict[str, float], score: float | None = None) -> Progress:
        share = self.share()
        if score is not None:
            share = self._reached() / self.config.validations
        return Progress(
            stage=self.stage.name,
            step=self.state.step,
            total_steps=self.total,
            share=share,
            epoch=self.state.step // self.stage.batches_per_epoch,
            train_loss=loss,
            grad_norm=self.state.gradient_norm,
            seconds=self.state.seconds,
            score=score,
            detail=terms,
        )

    def _lap(self) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self._tick
        self._tick = now

    def _save(self, name: str) -> None:
        """`best` holds the averaged weights alone, under the model's names; `last` holds all of the state."""
        path = self.folder / f"{name}.safetensors"
        if name == "best":
            tensors = {f"model.{key}": value for key, value in self.state.ema.state_dict().items()}
            facts = self.facts | {"step": self.state.step, "score": self.state.best}
            save_checkpoint(path, Checkpoint(tensors, facts))
        else:
            save_checkpoint(path, self.state.to_checkpoint(self.facts))


def _latest(milestones: dict[str, float]) -> float | None:
    return list(milestones.values())[-1] if milestones else None


def _shown(score: float | None) -> str:
    return "not measured yet" if score is None else f"{score:.4g}"


def _memory_reason(stage: Stage, step: int, device: torch.device) -> str:
    return (
        f"out of memory at step {step + 1} of {stage.name} with batch_size {stage.config.batch_size}, "
        f"peak {peak_memory_gib(device):.2f} GiB {'on the device' if device.type == 'cuda' else 'of the process'}"
    )

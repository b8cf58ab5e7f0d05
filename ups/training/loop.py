"""The only training loop. A stage says its loss and its score; everything else is here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ups.core.blocks import draw_for
from ups.core.checkpoint import LAST, Checkpoint, load_checkpoint, save_twice
from ups.core.ranks import ALONE, Part, Ranks
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
from ups.core.types import Progress, Report, Status
from ups.training.guard import Exploded, GradientGuard, clip_gradients
from ups.training.stage_config import SAME_SHARE, LoggingConfig, StageConfig
from ups.training.state import TrainState


class Stage(Protocol):
    """What the loop asks of a stage."""

    name: str
    model: nn.Module
    """what is trained, averaged and saved as best; frozen parts that a stage reads are not in it"""
    part: Part
    """the samples of every global batch that this rank has: all of them in a run of one"""

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
        """The loss of this rank's part of the `index`-th batch and its terms, all of them means over samples.

        What is drawn for a batch is drawn for the whole of it and cut to the part. torch's global generator is seeded
        anew for every batch: what the loss draws from it, resuming repeats.
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
    ranks: Ranks = ALONE,
) -> StageResult:
    """Train to the end of the stage, or to the status that ends it; `folder` gets `best` and `last`.

    `keep` is called with the share and the seconds so far while both hold the state at a share of `logging.keep_at`.
    Expected failures are a status of the result; what `report` raises passes through, and `last` stays usable.

    Of several `ranks` each calls this with the same arguments and a stage that was built with the same ranks; weights,
    decisions and results agree. Only rank 0 validates, reads and writes `folder`, and calls `report` and `keep`.
    Gradients are summed here and not by torch's DistributedDataParallel: that one hooks into `forward`, while stages
    call whatever methods of their models they need, accumulate, and have the whole gradient judged before it is used.
    """
    guard = GradientGuard(stage.config.guard, stage.name)
    state = TrainState.start(stage.model, stage.config.optimizer.build(stage.model), guard)
    last = folder / LAST
    found = ranks.lead(lambda: load_checkpoint(last) if resume and last.is_file() else None)
    if found is not None:
        state.restore(found)
    run = _StageRun(stage, state, folder, facts, runtime, logging, report, keep, ranks)
    run.leave_gradients_to_the_first()
    if ranks.size > 1:
        draw_for(stage.model, stage.part)
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
    ranks: Ranks

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
                self._report(loss, terms)
        return Status.COMPLETE, ""

    def _step(self, share: float) -> tuple[float, dict[str, float]]:
        state, config, model, ranks = self.state, self.config, self.stage.model, self.ranks
        epoch = share * config.epochs
        seed_all(self.device, self.runtime.seed, self.stage.name, state.step)
        bf16 = self.runtime.precision == "bf16"
        loss, terms = torch.empty(()), dict[str, float]()

        def forward() -> float:
            nonlocal loss, terms
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss, terms = self.stage.loss(state.step, epoch, share)
            return float(loss.detach())

        value = ranks.mean_of(forward, self.stage.part)
        self.state.guard.check_loss(value, state.step + 1)
        with ranks.agreed():
            (loss * self.stage.part.share / config.accumulation_steps).backward()
        state.step += 1
        if state.step % config.accumulation_steps == 0 or self.share() >= 1.0:
            ranks.add_up(state.gradients)
            admitted, norm = state.guard.admits(model, state.step, ranks)
            # a norm that is not finite was counted by the guard; the last finite one is what can be shown
            state.gradient_norm = norm if math.isfinite(norm) else state.gradient_norm
            if admitted:
                with ranks.agreed():
                    self._update(share, norm)
            state.optimizer.zero_grad(set_to_none=True)
        return value, terms

    def _update(self, share: float, norm: float) -> None:
        state, config = self.state, self.config
        clip_gradients(state.parameters, config.grad_clip, config.grad_clip_per_param, norm)
        factor, changed = config.schedule.factor(share), config.changed(share)
        for group in state.optimizer.param_groups:
            group["lr"] = changed.get("lr", group["initial_lr"]) * factor
            if "weight_decay" in changed and group["decays"]:
                group["weight_decay"] = changed["weight_decay"]
        # all groups have the same
        state.learning_rate = state.optimizer.param_groups[0]["lr"]
        state.optimizer.step()
        state.updates += 1
        state.update_ema(config.ema.at(state.updates))

    def _validation_is_due(self) -> bool:
        return self._reached() > len(self.state.milestones)

    def _reached(self) -> int:
        return math.floor(self.share() * self.config.validations + 1e-9)

    def _validate(self, loss: float, terms: dict[str, float]) -> tuple[Status, str] | None:
        state = self.state
        score = self.ranks.lead(lambda: float(self.stage.score(state.ema)))
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
            self.ranks.lead(lambda: self.keep(mark, state.seconds))
        self._report(loss, terms, score)
        self._tick = time.perf_counter()
        if stalled:
            return Status.STALLED, (
                f"best rollout_nrmse {_shown(state.best)} at {self.share():.0%} of {self.stage.name} is not below "
                f"the constant initial mean's {_shown(no_skill)}"
            )
        return None

    def _report(self, loss: float, terms: dict[str, float], score: float | None = None) -> None:
        means = self.ranks.means(terms, self.stage.part)
        self.ranks.lead(lambda: self.report(self._progress(loss, means, score)))

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
            lr=self.state.learning_rate,
        )

    def _lap(self) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self._tick
        self._tick = now
        if self.config.time_limit_seconds is not None:
            # then time decides, and every rank has its own
            self.state.seconds = self.ranks.first(self.state.seconds)

    def leave_gradients_to_the_first(self) -> None:
        """Of a gradient that is whole but not complete, rank 0 has the part so far; the others add to nothing."""
        if not self.ranks.is_first:
            for gradient in self.state.gradients:
                gradient.zero_()

    def _save(self, name: str) -> None:
        """`best` holds the averaged weights alone, under the model's names; `last` holds all of the state."""
        if name == "last":
            # a checkpoint between the batches of one update holds what all ranks have accumulated
            self.ranks.add_up(self.state.gradients)
            self.leave_gradients_to_the_first()
        self.ranks.lead(lambda: self._write(name))

    def _write(self, name: str) -> None:
        path = self.folder / f"{name}.safetensors"
        if name == "best":
            tensors = {f"model.{key}": value for key, value in self.state.ema.state_dict().items()}
            facts = self.facts | {"step": self.state.step, "score": self.state.best}
            save_twice(path, Checkpoint(tensors, facts))
        else:
            save_twice(path, self.state.to_checkpoint(self.facts))


def _latest(milestones: dict[str, float]) -> float | None:
    return list(milestones.values())[-1] if milestones else None


def _shown(score: float | None) -> str:
    return "not measured yet" if score is None else f"{score:.4g}"


def _memory_reason(stage: Stage, step: int, device: torch.device) -> str:
    return (
        f"out of memory at step {step + 1} of {stage.name} with batch_size {stage.config.batch_size}, "
        f"peak {peak_memory_gib(device):.2f} GiB {'on the device' if device.type == 'cuda' else 'of the process'}"
    )

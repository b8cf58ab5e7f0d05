"""What a search would try, and what it would cost, without training anything."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tune.checks import random_value
from tune.study import Plan
from ups.config import RunConfig
from ups.core.errors import ConfigError
from ups.data.task import Task, load_task
from ups.evaluation.evaluate import score
from ups.inference.reward_fit import NoReward, fit_search
from ups.inference.rewards import FittedReward, FittedTerm
from ups.inference.search import Search
from ups.inference.surrogate import Surrogate
from ups.models.corrector import Student
from ups.run import build_run_surrogate, count_parameters
from ups.training.batches import WindowSampler
from ups.training.latents import Pairs
from ups.training.loop import Stage
from ups.training.stage_order import DEPLOYED_AS
from ups.training.stages.consistency_distill import ConsistencyDistillStage
from ups.training.stages.diff_residual import DiffResidualStage
from ups.training.stages.operator import OperatorStage
from ups.training.stages.steady_prior import SteadyPriorStage

_PROBED_SHARES = (0.25, 0.75)
"""where in the stage steps are timed: curricula make late steps dearer than early ones"""
_PROBED_STEPS = 2
"""of the rollout, for the time of a search at test time"""


@dataclass(frozen=True)
class Sampled:
    """One config of a preview."""

    params: Mapping[str, Any]
    parameters: int | None
    """number of weights"""
    seconds: float | None
    """of a full trial, extrapolated from a few steps on this machine"""
    reason: str = ""
    """why the combination is infeasible, if it is"""


def preview(plan: Plan, count: int = 10, *, trains: bool = True) -> Iterator[Sampled]:
    """The base, then `count` configs drawn at random from the space.

    Args:
        trains: False where every stage is found in the store of a finished run.

    Raises:
        UserError: the task's data cannot be read.
    """
    task = load_task(plan.base.task)
    space = plan.space
    random = np.random.default_rng(plan.config.strategy.seed)
    torch.set_num_threads(plan.config.resources.cpus_per_worker)
    yield _measured(plan.base, {}, task, trains)
    for _ in range(count):
        params = space.draw(lambda name, domain: random_value(domain, random))
        try:
            yield _measured(space.config_of(params), params, task, trains)
        except ConfigError as error:
            yield Sampled(params, None, None, str(error))


def estimate_seconds(config: RunConfig, task: Task, *, trains: bool = True) -> float:
    """Time of all stages with their validations, unless they are found, and of the search at test time, if there is
    one; gradients are computed, nothing is updated.

    The encoding of the latents that later stages train on is left out: it is one pass without gradients.

    Raises:
        ConfigError: the model does not fit the task.
    """
    surrogate = build_run_surrogate(config, task)
    seconds = 0.0
    if trains:
        seconds += _stage_seconds(OperatorStage(config.stages.operator, surrogate, task, config.runtime))
        for name in config.stages.later():
            seconds += _stage_seconds(_later_stage(name, config, surrogate, task))
    return seconds + (_search_seconds(config, surrogate, task) if config.ttc.enabled else 0.0)


def _search_seconds(config: RunConfig, surrogate: Surrogate, task: Task) -> float:
    """Of the fit of the reward and of the searched score: some steps are searched, the others as dear as they."""
    trained = [DEPLOYED_AS[name] for name in config.stages.later()]
    corrections = {str(name): config.build_correction(name, task.spec) for name in trained}
    # which of them is deployed is known after training; the dearest is the first
    chosen = trained[0] if trained else "none"
    plain = surrogate.with_inference(corrector="auto").with_corrections(corrections, chosen).eval()
    start = time.perf_counter()
    with contextlib.suppress(NoReward):  # of weights that know nothing; it took as long
        fit_search(plain, config.ttc, task.train)
    fit = time.perf_counter() - start
    weights = config.ttc.reward.weights(task.spec)
    reward = FittedReward(tuple(FittedTerm(name, weight, 0.0, 1.0, 1.0, True) for name, weight in weights.items()))
    steps = task.validation.fields_STXC.shape[1] - 1
    searched = min(steps, config.ttc.steps or steps)
    probed = min(searched, _PROBED_STEPS)
    few = plain.with_search(Search(config.ttc.override({"steps": probed}), reward))
    without, along = (_score_seconds(each, task) for each in (plain, few))
    return fit + without + max(0.0, along - without) * searched / probed


def _score_seconds(surrogate: Surrogate, task: Task) -> float:
    start = time.perf_counter()
    score(surrogate, task.validation)
    return time.perf_counter() - start


def _stage_seconds(stage: Stage) -> float:
    stage.model.train()
    for share in _PROBED_SHARES:  # first calls are slow
        _step(stage, share)
    step = sum(_step(stage, share) for share in _PROBED_SHARES) / len(_PROBED_SHARES)
    start = time.perf_counter()
    stage.score(stage.model.eval())
    validation = time.perf_counter() - start
    settings = stage.config
    training = step * settings.epochs * stage.batches_per_epoch
    if settings.time_limit_seconds is not None:
        training = min(training, settings.time_limit_seconds)
    return training + validation * settings.validations


def _later_stage(name: str, config: RunConfig, surrogate: Surrogate, task: Task) -> Stage:
    """The stage on as many pairs as it would have; what is in them does not change its time."""
    settings, seed = getattr(config.stages, name), config.runtime.seed
    windows = WindowSampler.of_task(task, settings.batch_size, settings.windows_per_trajectory, seed, False)
    count = windows.batches_per_epoch * windows.batch_size * (settings.steps_before + 1)
    shape = (count, config.latent.tokens, config.latent.dim)
    latent = np.broadcast_to(np.float32(0), shape)
    features = np.broadcast_to(np.float32(0), (count, surrogate.equation.num_numbers))
    pairs = Pairs(latent, latent, latent, features)
    correction = config.build_correction(DEPLOYED_AS[name], task.spec)
    frozen = surrogate.eval().requires_grad_(False)
    if isinstance(correction, Student):
        teacher = config.build_correction(DEPLOYED_AS["diff_residual"], task.spec)
        return ConsistencyDistillStage(settings, correction, teacher, frozen, task, pairs, seed)
    kind = DiffResidualStage if name == "diff_residual" else SteadyPriorStage
    return kind(settings, correction, frozen, task, pairs, seed)


def _measured(config: RunConfig, params: Mapping[str, Any], task: Task, trains: bool) -> Sampled:
    return Sampled(params, count_parameters(config, task.spec), estimate_seconds(config, task, trains=trains))


def _step(stage: Stage, share: float) -> float:
    start = time.perf_counter()
    index = int(share * stage.config.epochs * stage.batches_per_epoch)
    loss, _ = stage.loss(index, share * stage.config.epochs, share)
    loss.backward()
    return time.perf_counter() - start

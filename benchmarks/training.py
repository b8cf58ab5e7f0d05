"""One training run as a benchmark measures it: data, time limit, cost, and errors on unseen trajectories.

S trajectories, B of one batch, T frames, X cells, C channels, P parameters.
"""

from __future__ import annotations

import math
import resource
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import common
import torch
from common import finite
from pairs import PROTOCOLS, Data

from ups.baselines.coarse_solver import CoarseSolver
from ups.baselines.persistence import InitialMean, Persistence
from ups.config import RunConfig, load_config
from ups.core.errors import UserError
from ups.core.types import Predictor, Progress, Status
from ups.data.generators import generate
from ups.data.generators.burgers import solve_burgers
from ups.data.task import TaskConfig, Trajectories, load_task
from ups.evaluation.evaluate import batches, evaluate_run
from ups.evaluation.metrics import Metrics, Scores
from ups.evaluation.rows import PDEBENCH_GIVEN
from ups.run import train_run

TUNING_SEED = 1000
"""the seed that learning rates are selected on; no final run has it"""
COARSE_CELLS = (64, 256)
SPLIT = {"train": 896, "validation": 64, "test": 64}
QUICK_SPLIT = {"train": 24, "validation": 4, "test": 4}


def split_of(quick: bool) -> dict[str, int]:
    """Trajectories that train, validate and test."""
    return QUICK_SPLIT if quick else SPLIT


def headline(file: Path, split: Mapping[str, int], space_stride: int = 4) -> dict[str, Any]:
    """The headline protocol of the Burgers task as config values: 256 cells, 41 frames of 0.05."""
    return {
        "task.equation": "burgers",
        "task.files": [str(file)],
        "task.space_stride": space_stride,
        "task.time_stride": 5,
        "task.frames": 41,
        **{f"task.{part}": count for part, count in split.items()},
    }


def timed(seconds: float, *, seed: int, validations: int, stage: str = "operator") -> dict[str, Any]:
    """A stage that time alone ends, on one thread, as config values."""
    return {
        f"stages.{stage}.time_limit_seconds": seconds,
        f"stages.{stage}.epochs": 10**6,
        f"stages.{stage}.validations": validations,
        "runtime.seed": seed,
        "runtime.threads": 1,
        "runtime.device": "cpu",
    }


def run_config(base: str, *changes: Mapping[str, Any]) -> RunConfig:
    """A shipped config with changes, the later ones first.

    Raises:
        UserError: a warm-up is counted in epochs, which a time limit makes meaningless.
    """
    merged: dict[str, Any] = {}
    for each in changes:
        merged |= each
    config = load_config(base, merged)
    losses = config.stages.operator.losses
    for name in ("inverse_encoding", "inverse_decoding"):
        if getattr(losses, name).warmup >= 1:
            raise UserError(f"{base}: losses.{name}.warmup must be a share of the stage here, not epochs")
    return config


def data_file(place: Path, nu: float, *, quick: bool) -> Path:
    """The file that was pointed to, or the benchmarks' own in that folder, generated if it is not there."""
    if place.is_file():
        return place
    file = place / f"burgers_nu{nu:g}{'_quick' if quick else ''}.h5"
    if not file.is_file():
        common.say(f"generating {file}")
        count = sum(split_of(quick).values())
        generate("burgers", file, parameters={"nu": nu}, trajectories=count, cells=1024, frames=201, dt=0.01, seed=0)
    return file


def select_rate(outcomes: Mapping[float, Mapping[str, Any]]) -> float:
    """The learning rate with the best validation score; complete runs come before others, small rates decide ties."""

    def rank(rate: float) -> tuple[bool, float, float]:
        found = outcomes[rate]
        score = math.inf if found["score"] is None else found["score"]
        return found["status"] != Status.COMPLETE, score, rate

    return min(outcomes, key=rank)


def train(config: RunConfig, run: Path) -> Data:
    """Train into the empty folder `run` and say what it cost; in the process of a job, whose memory is the run's."""
    shutil.rmtree(run, ignore_errors=True)
    curve: list[dict[str, Any]] = []
    steps = dict[str, int]()

    def note(progress: Progress) -> None:
        steps[progress.stage] = progress.step
        if progress.score is not None:
            moment = {"seconds": progress.seconds, "share": progress.share, "score": finite(progress.score)}
            curve.append(moment if progress.stage == "operator" else {"stage": progress.stage, **moment})

    wall, cpu = time.perf_counter(), time.process_time()
    result = train_run(config, run, note, evaluate_on="none")
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return {
        "status": str(result.status),
        "reason": result.reason,
        "score": finite(result.score),
        "milestones": {key: finite(score) for key, score in result.milestones.items()},
        "curve": curve,
        "seconds": result.seconds,
        "steps": steps.get("operator", 0),
        "parameters": result.parameters,
        "core_share": busy,
        "stages": {
            name: {key: stage.get(key) for key in ("score_before", "score_after", "kept", "seconds", "reused")}
            for name, stage in result.stages.items()
        },
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measure(predictor: Predictor, trajectories: Trajectories, protocol: str) -> Scores:
    """All metrics of a predictor under one protocol.

    `one_step`: every frame from the true one before it; `rollout`: all from the first, as deployed; `reencode` and
    `latent`: the same in this mode; `from_tenth`: all after PDEBench's ten given frames, as deployed.
    """
    metrics = Metrics(predictor.spec.dt)
    first = PDEBENCH_GIVEN - 1 if protocol == "from_tenth" else 0
    mode = protocol if protocol in ("reencode", "latent") else None
    with torch.no_grad():
        for fields_BTXC, parameters_BP in batches(trajectories):
            steps = fields_BTXC.shape[1] - 1 - first
            if protocol == "one_step":
                each = [predictor.rollout(fields_BTXC[:, t], parameters_BP, 1) for t in range(steps)]
                prediction_BTXC = torch.cat(each, dim=1)
            else:
                prediction_BTXC = predictor.rollout(fields_BTXC[:, first], parameters_BP, steps, mode)
            metrics.add(prediction_BTXC, fields_BTXC[:, first + 1 :])
    return metrics.scores()


def trajectory_errors(predictor: Predictor, trajectories: Trajectories, protocol: str) -> list[float]:
    """nRMSE of each trajectory, mean over its predicted frames: what means, medians and pairs are made of."""
    return [float(error) for error in measure(predictor, trajectories, protocol).nrmse_S]


def evaluation(predictor: Predictor, config: TaskConfig, protocols: Iterable[str] = PROTOCOLS) -> Data:
    """The project's own metrics on the test split, and the errors of each trajectory under every protocol."""
    task = load_task(config)
    has_latent = getattr(predictor, "has_latent", False)
    report = evaluate_run(predictor, task, "test")
    errors = {
        name: trajectory_errors(predictor, task.test, name) for name in protocols if has_latent or name != "latent"
    }
    return {
        "metrics": {name: finite(value) for name, value in report.metrics.items()},
        "errors": {name: [finite(error) for error in each] for name, each in errors.items()},
        "ms_per_trajectory": 1e3 * report.cost["rollout_seconds"],
    }


def references(config: TaskConfig) -> Data:
    """The rows that need no training: persistence, the initial mean, coarse solvers."""
    spec = load_task(config).spec
    predictors: dict[str, Predictor] = {"persistence": Persistence(spec), "initial mean": InitialMean(spec)}
    predictors |= {f"coarse solver, {cells} cells": CoarseSolver(spec, cells, solve_burgers) for cells in COARSE_CELLS}
    return {"rows": {name: evaluation(predictor, config) for name, predictor in predictors.items()}}

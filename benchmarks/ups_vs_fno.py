"""UPS and FNO on Burgers at equal wall time, one core each, the same tuning budget, the same loop.

    python benchmarks/ups_vs_fno.py                      # nu = 0.01, three seeds, 300 s a run
    python benchmarks/ups_vs_fno.py --nu 0.001
    python benchmarks/ups_vs_fno.py --report-only        # the section of RESULTS.md again, from the JSON

Every learning rate of a small grid is tried for every model on a seed of its own, selected on the validation score,
and trained with it on the final seeds. What is finished stays in the work folder and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import torch
from common import Job, finite
from fno_tables import TARGETS, collect, render

from ups.baselines.coarse_solver import CoarseSolver
from ups.baselines.persistence import InitialMean, Persistence
from ups.config import RunConfig, load_config
from ups.core.errors import UserError
from ups.core.types import Predictor, Progress, Status
from ups.data.generators import generate
from ups.data.generators.burgers import solve_burgers
from ups.data.task import TaskConfig, Trajectories, load_task
from ups.evaluation.evaluate import PDEBENCH_GIVEN, batches, evaluate_run
from ups.evaluation.metrics import Metrics
from ups.inference.surrogate import load_surrogate
from ups.run import train_run

_FNO = {
    "baseline.kind": "fno",
    "baseline.width": 32,
    "baseline.modes": 32,
    "baseline.depth": 4,
    "inference.rollout": "reencode",
    "stages.operator.losses.inverse_encoding.weight": 0.0,
    "stages.operator.losses.inverse_decoding.weight": 0.0,
}
_PLAIN = {"stages.operator.augment": False, "stages.operator.losses.rollout.weight": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ups": ("burgers1d", {}),
    "ups_latent": ("burgers1d_latent", {}),
    "fno_frame": ("burgers1d", {**_FNO, "symmetry": "auto", "baseline.position": False}),
    "fno_frame_position": ("burgers1d", {**_FNO, "symmetry": "auto", "baseline.position": True}),
    "fno": ("burgers1d", {**_FNO, "symmetry": "none", "baseline.position": True}),
    "fno_plain": ("burgers1d", {**_FNO, "symmetry": "none", "baseline.position": True, **_PLAIN}),
}
"""shipped config and what is changed in it; the translation is part of the frame, so `fno_frame` sees no position"""
DEFAULT_MODELS = [name for name in MODELS if name != "fno_frame_position"]
TUNING_SEED = 1000
COARSE_CELLS = (64, 256)
_SPLIT = {"train": 896, "validation": 64, "test": 64}
_QUICK_SPLIT = {"train": 24, "validation": 4, "test": 4}


def main() -> None:
    args = _arguments()
    if args.job:
        common.answer(args.job, _work)
        return
    out = args.out or Path("benchmarks/results") / f"ups_vs_fno_nu{args.nu:g}{'_quick' if args.quick else ''}.json"
    if not args.report_only:
        common.write_json(out, _measure(args))
    found = json.loads(_readable(out))
    results = args.results or (out.with_suffix(".md") if args.quick else common.RESULTS)
    common.update_section(results, f"ups_vs_fno nu={found['protocol']['nu']:g}", render(found))
    common.say(f"wrote {out} and {results}")


def config_of(model: str, file: Path, split: Mapping[str, int], *, rate: float, seed: int, seconds: float) -> RunConfig:
    """The run of one model on the benchmark's task, limited by time alone.

    Raises:
        UserError: the shipped config counts a warm-up in epochs, which a time limit makes meaningless.
    """
    base, changes = MODELS[model]
    config = load_config(
        base,
        {
            **changes,
            "task.equation": "burgers",
            "task.files": [str(file)],
            "task.space_stride": 4,
            "task.time_stride": 5,
            "task.frames": 41,
            **{f"task.{part}": count for part, count in split.items()},
            "stages.operator.time_limit_seconds": seconds,
            "stages.operator.epochs": 10**6,
            "stages.operator.optimizer.lr": rate,
            # validation is paid for by the time limit: a tuning run has no use for a curve
            "stages.operator.validations": 2 if seed == TUNING_SEED else 8,
            "runtime.seed": seed,
            "runtime.threads": 1,
            "runtime.device": "cpu",
        },
    )
    losses = config.stages.operator.losses
    for name in ("inverse_encoding", "inverse_decoding"):
        if getattr(losses, name).warmup >= 1:
            raise UserError(f"{base}: losses.{name}.warmup must be a share of the stage here, not epochs")
    return config


def select_rate(outcomes: Mapping[float, Mapping[str, Any]]) -> float:
    """The learning rate with the best validation score; complete runs come before others, small rates decide ties."""

    def rank(rate: float) -> tuple[bool, float, float]:
        found = outcomes[rate]
        score = math.inf if found["score"] is None else found["score"]
        return found["status"] != Status.COMPLETE, score, rate

    return min(outcomes, key=rank)


def trajectory_errors(predictor: Predictor, trajectories: Trajectories, protocol: str) -> list[float]:
    """nRMSE of each trajectory, mean over its predicted frames: what means, medians and pairs are made of.

    `one_step`: every frame from the true one before it; `reencode` and `latent`: all from the first, in this mode;
    `from_tenth`: all after PDEBench's ten given frames, as deployed.
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
    return [float(error) for error in metrics.scores().nrmse_S]


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tune, train, evaluate; every number of the benchmark."""
    file, split = _data_file(args), _QUICK_SPLIT if args.quick else _SPLIT
    machine = common.machine(args.lanes)
    work = args.work / f"ups_vs_fno_nu{args.nu:g}{'_quick' if args.quick else ''}"

    # reduced once, in one process, before anything is timed
    task = config_of(args.models[0], file, split, rate=args.rates[0], seed=TUNING_SEED, seconds=1.0).task
    common_request = {"machine": machine, "data": load_task(task).fingerprint}

    def job(model: str, rate: float, seed: int) -> Job:
        seconds = args.tune_seconds if seed == TUNING_SEED else args.seconds
        config = config_of(model, file, split, rate=rate, seed=seed, seconds=seconds)
        phase = "tune" if seed == TUNING_SEED else f"seed{seed}"
        request = {"kind": "train", **common_request, "config": config.model_dump(mode="json")}
        return Job(f"{model}, rate {rate:g}, {phase}", work / f"{model}_{phase}_{rate:g}", request)

    request = {"kind": "references", **common_request, "task": task.model_dump(mode="json")}
    references = Job("references", work / "references", request)
    tuning = {model: {rate: job(model, rate, TUNING_SEED) for rate in args.rates} for model in args.models}
    common.run_jobs(
        Path(__file__), [references, *(each for jobs in tuning.values() for each in jobs.values())], args.lanes
    )
    tuned = {model: {rate: _answer(each) for rate, each in jobs.items()} for model, jobs in tuning.items()}
    rates = {model: select_rate(outcomes) for model, outcomes in tuned.items()}
    # seed by seed: whatever the machine does in the course of an hour, it does to all models
    final = {(model, seed): job(model, rates[model], seed) for seed in args.seeds for model in args.models}
    common.run_jobs(Path(__file__), list(final.values()), args.lanes)
    runs = {model: {seed: _answer(final[model, seed]) for seed in args.seeds} for model in args.models}
    protocol = {
        "nu": args.nu,
        "cells": 256,
        "frames": 41,
        "dt": 0.05,
        **split,
        "seconds": args.seconds,
        "tune_seconds": args.tune_seconds,
        "rates": args.rates,
        "seeds": args.seeds,
        "tuning_seed": TUNING_SEED,
        "validations": 8,
        "targets": TARGETS.get(f"{args.nu:g}", {}),
    }
    return collect(protocol, tuned, rates, runs, _answer(references)["rows"], machine)


def _answer(job: Job) -> dict[str, Any]:
    found = job.result()
    assert found is not None, job.name
    return found


def _work(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """In the process of a job."""
    return _references(request) if request["kind"] == "references" else _train(request, folder)


def _train(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = RunConfig.parse(request["config"])
    run, tuning = folder / "run", config.runtime.seed == TUNING_SEED
    shutil.rmtree(run, ignore_errors=True)
    curve: list[dict[str, float | None]] = []
    steps = 0

    def note(progress: Progress) -> None:
        nonlocal steps
        steps = progress.step
        if progress.score is not None:
            curve.append({"seconds": progress.seconds, "share": progress.share, "score": finite(progress.score)})

    wall, cpu = time.perf_counter(), time.process_time()
    result = train_run(config, run, note, evaluate_on="none")
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    found: dict[str, Any] = {
        "status": str(result.status),
        "reason": result.reason,
        "score": finite(result.score),
        "milestones": {key: finite(score) for key, score in result.milestones.items()},
        "curve": curve,
        "seconds": result.seconds,
        "steps": steps,
        "parameters": result.parameters,
        "core_share": busy,
    }
    if result.status is Status.COMPLETE and not tuning:
        found |= _evaluation(load_surrogate(run), config.task)
        found["deployed"] = config.inference.rollout
    return found


def _evaluation(predictor: Predictor, config: TaskConfig) -> dict[str, Any]:
    """The project's own report on the test split, and the errors of each trajectory under every protocol."""
    task = load_task(config)
    protocols = ["one_step", "reencode", "from_tenth"] + (["latent"] if getattr(predictor, "has_latent", False) else [])
    report = evaluate_run(predictor, task, "test")
    errors = {name: trajectory_errors(predictor, task.test, name) for name in protocols}
    return {
        "report": report.to_json(),
        "errors": {name: [finite(error) for error in each] for name, each in errors.items()},
        "ms_per_trajectory": 1e3 * report.cost["rollout_seconds"],
    }


def _references(request: dict[str, Any]) -> dict[str, Any]:
    config = TaskConfig.parse(request["task"])
    spec = load_task(config).spec
    predictors: dict[str, Predictor] = {"persistence": Persistence(spec), "initial mean": InitialMean(spec)}
    predictors |= {f"coarse solver, {cells} cells": CoarseSolver(spec, cells, solve_burgers) for cells in COARSE_CELLS}
    return {"rows": {name: _evaluation(predictor, config) for name, predictor in predictors.items()}}


def _data_file(args: argparse.Namespace) -> Path:
    """The file that was pointed to, or the benchmark's own, generated if it is not there."""
    if args.data.is_file():
        return args.data
    file = args.data / f"burgers_nu{args.nu:g}{'_quick' if args.quick else ''}.h5"
    if not file.is_file():
        common.say(f"generating {file}")
        count = sum((_QUICK_SPLIT if args.quick else _SPLIT).values())
        generate("burgers", file, parameter=args.nu, trajectories=count, cells=1024, frames=201, dt=0.01, seed=0)
    return file


def _readable(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no results here; run without --report-only first")
    return path.read_text()


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nu", type=float, default=0.01)
    parser.add_argument("--seconds", type=float, help="of training for each final run [300]")
    parser.add_argument("--tune-seconds", type=float, help="of training for each learning rate [45]")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-3, 3e-3, 6e-3])
    parser.add_argument("--seeds", type=int, nargs="+", help="of the final runs [0 1 2]")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=DEFAULT_MODELS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data file, or the file itself")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="keeps what is finished")
    parser.add_argument("--out", type=Path, help="[benchmarks/results/ups_vs_fno_nuNU.json]")
    parser.add_argument("--results", type=Path, help="the Markdown file [benchmarks/RESULTS.md]")
    parser.add_argument("--lanes", type=int, default=len(common.cores()), help="jobs at a time [as many as cores]")
    parser.add_argument("--report-only", action="store_true", help="only render the JSON again")
    parser.add_argument("--quick", action="store_true", help="a trial run of minutes; its numbers mean nothing")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    args.seconds = args.seconds or (8.0 if args.quick else 300.0)
    args.tune_seconds = args.tune_seconds or (4.0 if args.quick else 45.0)
    args.seeds = args.seeds or ([0, 1] if args.quick else [0, 1, 2])
    args.lanes = min(args.lanes, len(common.cores()))
    if TUNING_SEED in args.seeds:
        parser.error(f"seed {TUNING_SEED} is the one that learning rates are selected on")
    return args


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

"""UPS, FNO and U-Net on Burgers at three viscosities, one table, one run; and on grids that they never saw.

    python benchmarks/nu_table.py                        # nu = 0.001, 0.01, 0.1, three seeds, 60 s a run
    python benchmarks/nu_table.py --report-only          # the section of RESULTS.md again, from the JSON

Every model trains for the same wall time on one core, in the same loop. Its learning rate is the best of a small
grid at one viscosity, on a seed of its own. At that viscosity every run with the canonical frame, and UPS with the
decoder that can be evaluated anywhere, is also evaluated on finer grids. What is finished is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import nu_report
import training
from common import Job, finite
from peers import MODELS, config_of
from script import Script, parser, settle
from training import TUNING_SEED

from ups.config import RunConfig
from ups.core.types import Status
from ups.data.task import TaskConfig, load_task
from ups.inference.build import load_surrogate
from ups.inference.surrogate import Surrogate

NAME = "nu_table"
DEFAULT_MODELS = ["ups", "fno_frame", "unet_frame", "fno"]
PROTOCOLS = ("one_step", "reencode", "from_tenth")
CELLS = 1024
"""of the data files"""
FINER = {512: 2, 1024: 1}
"""cells -> stride of the task"""


def config_on(args: argparse.Namespace, model: str, nu: float, rate: float, seed: int) -> RunConfig:
    """The run of a model at one viscosity."""
    seconds = args.tune_seconds if seed == TUNING_SEED else args.seconds
    file = training.data_file(args.data, nu, quick=args.quick)
    split = training.split_of(args.quick)
    return config_of(model, file, split, rate=rate, seed=seed, seconds=seconds)


def finer_errors(surrogate: Surrogate, config: TaskConfig, strides: dict[int, int]) -> dict[str, list[float | None]]:
    """Rollout error of each test trajectory on other grids: the same weights, the same trajectories."""
    found = {}
    for cells, stride in strides.items():
        task = load_task(TaskConfig.parse({**config.model_dump(mode="json"), "space_stride": stride}))
        errors = training.trajectory_errors(surrogate.with_cells(cells), task.test, "rollout")
        found[str(cells)] = [finite(error) for error in errors]
    return found


def _measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    machine = common.machine(args.lanes)
    tasks = {nu: config_on(args, args.models[0], nu, args.rates[0], TUNING_SEED).task for nu in args.nu}
    # reduced once, in one process, before anything is timed
    data = {nu: load_task(task).fingerprint for nu, task in tasks.items()}
    for stride in FINER.values() if args.finer else ():
        load_task(TaskConfig.parse({**tasks[args.tune_nu].model_dump(mode="json"), "space_stride": stride}))

    def job(model: str, nu: float, rate: float, seed: int) -> Job:
        phase = "tune" if seed == TUNING_SEED else f"seed{seed}"
        request = {
            "kind": "train",
            "machine": machine,
            "data": data[nu],
            "config": config_on(args, model, nu, rate, seed).model_dump(mode="json"),
            "finer": FINER if model in args.finer and nu == args.tune_nu and seed != TUNING_SEED else {},
        }
        folder = work / f"{model}_nu{nu:g}_{phase}_{rate:g}"
        return Job(f"{model}, nu {nu:g}, rate {rate:g}, {phase}", folder, request)

    references = {
        nu: Job(
            f"references, nu {nu:g}",
            work / f"references_nu{nu:g}",
            {"kind": "references", "machine": machine, "data": data[nu], "task": task.model_dump(mode="json")},
        )
        for nu, task in tasks.items()
    }
    models = list(dict.fromkeys([*args.models, *args.finer]))
    tuning = {model: {rate: job(model, args.tune_nu, rate, TUNING_SEED) for rate in args.rates} for model in models}
    first = [*references.values(), *(each for jobs in tuning.values() for each in jobs.values())]
    common.run_jobs(Path(__file__), first, args.lanes)
    tuned = {model: {rate: each.answer() for rate, each in jobs.items()} for model, jobs in tuning.items()}
    rates = {model: training.select_rate(outcomes) for model, outcomes in tuned.items()}
    # seed by seed: whatever the machine does in the course of an hour, it does to all models
    final = {
        (nu, model, seed): job(model, nu, rates[model], seed)
        for seed in args.seeds
        for nu in args.nu
        for model in models
        if model in args.models or nu == args.tune_nu
    }
    common.run_jobs(Path(__file__), list(final.values()), args.lanes)
    protocol = {
        "nus": args.nu,
        "models": args.models,
        "cells": 256,
        "frames": 41,
        "dt": 0.05,
        **training.split_of(args.quick),
        "seconds": args.seconds,
        "tune_seconds": args.tune_seconds,
        "tune_nu": args.tune_nu,
        "rates": args.rates,
        "seeds": args.seeds,
        "tuning_seed": TUNING_SEED,
        "validations": 8,
    }
    found = [{"nu": nu, "model": model, "seed": seed, **each.answer()} for (nu, model, seed), each in final.items()]
    rows = {f"{nu:g}": each.answer()["rows"] for nu, each in references.items()}
    return nu_report.collect(protocol, tuned, rates, found, rows, machine)


def _work(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """In the process of a job."""
    if request["kind"] == "references":
        return training.references(TaskConfig.parse(request["task"]))
    config, run = RunConfig.parse(request["config"]), folder / "run"
    found = training.train(config, run)
    if found["status"] == Status.COMPLETE and config.runtime.seed != TUNING_SEED:
        surrogate = load_surrogate(run)
        found |= training.evaluation(surrogate, config.task, PROTOCOLS)
        strides = {int(cells): stride for cells, stride in request["finer"].items()}
        found["finer"] = finer_errors(surrogate, config.task, strides)
    return found


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--nu", type=float, nargs="+", default=[0.001, 0.01, 0.1])
    made.add_argument("--tune-nu", type=float, help="where rates are tuned and finer grids are tried [0.01]")
    made.add_argument("--seconds", type=float, help="of training for each final run [60]")
    made.add_argument("--tune-seconds", type=float, help="of training for each learning rate [20]")
    made.add_argument("--rates", type=float, nargs="+", help="[1.5e-3 3e-3 6e-3]")
    made.add_argument("--models", nargs="+", choices=MODELS, default=DEFAULT_MODELS)
    made.add_argument(
        "--finer", nargs="*", choices=MODELS, help="evaluated on finer grids [ups ups_anypoint fno_frame unet_frame]"
    )
    args = made.parse_args(words)
    settle(
        args,
        seconds=(4.0, 60.0),
        tune_seconds=(2.0, 20.0),
        rates=([3e-3], [1.5e-3, 3e-3, 6e-3]),
        tune_nu=(args.nu[0], 0.01 if 0.01 in args.nu else args.nu[0]),
        finer=(["ups", "ups_anypoint"], ["ups", "ups_anypoint", "fno_frame", "unet_frame"]),
    )
    if TUNING_SEED in args.seeds:
        made.error(f"seed {TUNING_SEED} is the one that learning rates are selected on")
    if args.tune_nu not in args.nu:
        made.error(f"--tune-nu must be one of --nu, got {args.tune_nu:g}")
    return args


SCRIPT = Script(NAME, _measure, _work, nu_report.render)

if __name__ == "__main__":
    sys.exit(common.exit_code(lambda: SCRIPT.run(_arguments())))

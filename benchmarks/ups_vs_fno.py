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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import training
from common import Job
from fno_tables import TARGETS, collect, render
from peers import MODELS, config_of
from training import TUNING_SEED

from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.types import Status
from ups.data.task import TaskConfig, load_task
from ups.inference.build import load_surrogate

DEFAULT_MODELS = ["ups", "ups_latent", "fno_frame", "fno", "fno_plain"]


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


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tune, train, evaluate; every number of the benchmark."""
    file = training.data_file(args.data, args.nu, quick=args.quick)
    split = training.split_of(args.quick)
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
    tuned = {model: {rate: each.answer() for rate, each in jobs.items()} for model, jobs in tuning.items()}
    rates = {model: training.select_rate(outcomes) for model, outcomes in tuned.items()}
    # seed by seed: whatever the machine does in the course of an hour, it does to all models
    final = {(model, seed): job(model, rates[model], seed) for seed in args.seeds for model in args.models}
    common.run_jobs(Path(__file__), list(final.values()), args.lanes)
    finished = {model: {seed: final[model, seed].answer() for seed in args.seeds} for model in args.models}
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
    return collect(protocol, tuned, rates, finished, references.answer()["rows"], machine)


def _work(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """In the process of a job."""
    if request["kind"] == "references":
        return training.references(TaskConfig.parse(request["task"]))
    config, run = RunConfig.parse(request["config"]), folder / "run"
    found = training.train(config, run)
    if found["status"] == Status.COMPLETE and config.runtime.seed != TUNING_SEED:
        found |= training.evaluation(load_surrogate(run), config.task)
        found["deployed"] = config.inference.rollout
    return found


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

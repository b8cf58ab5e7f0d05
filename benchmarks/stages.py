"""What the later stages bring: operator alone, with its diffusion residual, with the few-step student of that.

    python benchmarks/stages.py                          # configs/burgers1d_diffusion.yaml, three seeds
    python benchmarks/stages.py --config burgers1d_golden_v2
    python benchmarks/stages.py --report-only            # the section of RESULTS.md again, from the JSON

Every stage trains for a wall time of its own. Beside each run stands an operator that was given the time of all
stages. What is finished stays in the work folder and is not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import stages_report
import training
from common import Job, finite
from pairs import Data
from script import Script, parser, settle

from ups.baselines.persistence import InitialMean
from ups.config import RunConfig
from ups.core.types import Status
from ups.data.task import Task, load_task
from ups.evaluation.ensemble import evaluate_ensemble
from ups.evaluation.evaluate import score
from ups.inference.build import load_surrogate
from ups.inference.surrogate import Surrogate

NAME = "stages"
PREDICTORS: dict[str, dict[str, Any]] = {
    "operator": {"corrector": "none"},
    "diffusion": {"corrector": "diffusion"},
    "diffusion 0": {"corrector": "diffusion", "temperature": 0.0},
    "diffusion 1": {"corrector": "diffusion", "temperature": 1.0},
    "student 1": {"corrector": "student", "student_steps": 1},
    "student 2": {"corrector": "student", "student_steps": 2},
}
"""name -> how the one trained surrogate is rolled out"""
STAGES = ("operator", "diff_residual", "consistency_distill")


def config_of(args: argparse.Namespace, seed: int, *, all_stages: bool) -> RunConfig:
    """A run of all stages, or an operator that is given the time of all of them."""
    file = training.data_file(args.data, args.nu, quick=args.quick)
    seconds = dict(zip(STAGES, (args.seconds, args.diffusion_seconds, args.distill_seconds), strict=True))
    changes: Data = {}
    if all_stages:
        for name in STAGES:
            changes |= training.timed(seconds[name], seed=seed, validations=4, stage=name)
    else:
        changes |= training.timed(args.control_seconds, seed=seed, validations=4)
        changes |= {f"stages.{name}.epochs": 0 for name in STAGES[1:]}
    return training.run_config(args.config, training.headline(file, training.split_of(args.quick)), changes)


def errors_of(surrogate: Surrogate, task: Task, how: Mapping[str, Mapping[str, Any]]) -> Data:
    """Each predictor on both unseen splits: the error of each trajectory, and what a trajectory costs."""
    found: Data = {}
    for name, inference in how.items():
        predictor = surrogate.with_inference(**inference)
        begin = time.perf_counter()
        test = training.trajectory_errors(predictor, task.test, "rollout")
        seconds = time.perf_counter() - begin
        found[name] = {
            "validation": [
                finite(error) for error in training.trajectory_errors(predictor, task.validation, "rollout")
            ],
            "test": [finite(error) for error in test],
            "one_step": [finite(error) for error in training.trajectory_errors(predictor, task.test, "one_step")],
            "ms_per_trajectory": 1e3 * seconds / len(task.test),
        }
    return found


def ensemble_of(surrogate: Surrogate, task: Task, inference: Mapping[str, Any], members: int) -> Data:
    """Summary of an ensemble of rollouts of the test trajectories."""
    predictor = surrogate.with_inference(**inference)
    scores = evaluate_ensemble(
        lambda initial, parameters, steps: predictor.sample(initial, parameters, steps, members=members), task.test
    )
    return {name: finite(value) for name, value in scores.summary().items()}


def _measure(args: argparse.Namespace, work: Path) -> Data:
    machine = common.machine(args.lanes)
    first = config_of(args, args.seeds[0], all_stages=True)
    # reduced once, in one process, before anything is timed
    data = load_task(first.task).fingerprint

    def job(seed: int, kind: str) -> Job:
        config = config_of(args, seed, all_stages=kind == "stages")
        request = {
            "kind": kind,
            "machine": machine,
            "data": data,
            "config": config.model_dump(mode="json"),
            "members": args.members,
        }
        return Job(f"{kind}, seed {seed}", work / f"{kind}_seed{seed}", request)

    kinds = ["stages", *([] if args.no_control else ["control"])]
    jobs = {(kind, seed): job(seed, kind) for seed in args.seeds for kind in kinds}
    common.run_jobs(Path(__file__), list(jobs.values()), args.lanes)
    found = [{"kind": kind, "seed": seed, **each.answer()} for (kind, seed), each in jobs.items()]
    protocol = {
        "config": args.config,
        "nu": args.nu,
        "cells": 256,
        "frames": 41,
        "dt": 0.05,
        **training.split_of(args.quick),
        "seconds": {"operator": args.seconds, "diffusion": args.diffusion_seconds, "student": args.distill_seconds},
        "seeds": args.seeds,
        "members": args.members,
        "sampler_steps": first.inference.sampler_steps,
        "solver": first.inference.solver,
        "temperature": first.inference.temperature,
        "control_seconds": args.control_seconds,
    }
    return stages_report.collect(protocol, found, machine)


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    config, run = RunConfig.parse(request["config"]), folder / "run"
    begin = time.perf_counter()
    found = training.train(config, run)
    found["wall_seconds"] = time.perf_counter() - begin
    if found["status"] != Status.COMPLETE:
        return found
    task, surrogate = load_task(config.task), load_surrogate(run)
    if request["kind"] == "control":
        return found | {"predictors": errors_of(surrogate, task, {"operator": PREDICTORS["operator"]})}
    found["predictors"] = errors_of(surrogate, task, PREDICTORS)
    found["deployed"] = surrogate.correction
    found["no_skill"] = finite(score(InitialMean(task.spec), task.validation))
    found["ensembles"] = {
        name: ensemble_of(surrogate, task, PREDICTORS[name], request["members"]) for name in ("diffusion", "student 1")
    }
    return found


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--config", default="burgers1d_diffusion", help="[burgers1d_diffusion]")
    made.add_argument("--nu", type=float, default=0.01)
    made.add_argument("--seconds", type=float, help="of the operator stage [45]")
    made.add_argument("--diffusion-seconds", type=float, help="of the diffusion residual [30]")
    made.add_argument("--distill-seconds", type=float, help="of its student [20]")
    made.add_argument(
        "--control-seconds", type=float, help="of an operator without later stages; these also encode latents [125]"
    )
    made.add_argument("--members", type=int, help="of an ensemble [8]")
    made.add_argument("--no-control", action="store_true", help="no operator that is given the time of all stages")
    return settle(
        made.parse_args(words),
        seconds=(15.0, 45.0),
        diffusion_seconds=(3.0, 30.0),
        distill_seconds=(3.0, 20.0),
        control_seconds=(21.0, 125.0),
        members=(3, 8),
    )


SCRIPT = Script(NAME, _measure, _work, stages_report.render)

if __name__ == "__main__":
    sys.exit(common.exit_code(lambda: SCRIPT.run(_arguments())))

"""Old claims, answered by the project's own search: tokens, inverse losses, operators, settings of the diffusion.

    python benchmarks/ablations.py                       # every axis, three seeds
    python benchmarks/ablations.py --axes tokens operator --seconds 40
    python benchmarks/ablations.py --report-only         # the sections of RESULTS.md again, from the JSON

Every axis is a study with a grid sampler, without pruning, one for each seed of training. A study has one core and
one trial at a time, so that times can be compared. Each of its trials is then scored on the test split. Studies that
finished are not run again; one that was interrupted starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ablation_report
import common
import training
from ablation_axes import AXES, Axis, arm_of
from common import Job, finite
from pairs import Data
from script import Script, parser, settle

from tune.checks import load_plan_from_space
from tune.study import TrialRecord, run_folder
from ups.core.types import Status
from ups.data.task import Task, load_task
from ups.inference.build import load_surrogate
from ups.inference.surrogate import Surrogate

NAME = "ablations"


def plan_request(args: argparse.Namespace, axis: Axis, seed: int) -> Data:
    """What `load_plan_from_space` is given for the study of an axis, for one seed of training."""
    file = training.data_file(args.data, 0.01, quick=args.quick)
    overrides = {
        **training.headline(file, training.split_of(args.quick)),
        **training.timed(args.seconds, seed=seed, validations=4),
        **axis.changes,
    }
    changes: Data = {"resources.concurrency": 1, "strategy.sampler": "grid", "strategy.scheduler": "none"}
    if axis.part is not None:
        changes["space"] = dict(axis.part)
    return {"source": axis.space, "overrides": overrides, "changes": changes}


def _measure(args: argparse.Namespace, work: Path) -> Data:
    machine = common.machine(args.lanes)
    jobs = {}
    for name in args.axes:
        for seed in args.seeds:
            given = plan_request(args, AXES[name], seed)
            plan = load_plan_from_space(**given)
            # reduced once, in one process, before anything is timed
            load_task(plan.base.task)
            request = {
                "axis": name,
                "plan": given,
                "search": plan.config.model_dump(mode="json"),
                "base": plan.base.model_dump(mode="json"),
                "machine": machine,
            }
            jobs[name, seed] = Job(f"{name}, seed {seed}", work / f"{name}_seed{seed}", request)
    common.run_jobs(Path(__file__), list(jobs.values()), args.lanes)
    studies: dict[str, dict[int, Data]] = {name: {} for name in args.axes}
    for (name, seed), job in jobs.items():
        studies[name][seed] = job.answer()
    split = training.split_of(args.quick)
    protocol = {**split, "seeds": args.seeds, "seconds": args.seconds, "cells": 256, "frames": 41, "dt": 0.05}
    axes = {name: {"title": AXES[name].title, "space": AXES[name].space} for name in args.axes}
    claims = {name: AXES[name].claims for name in args.axes}
    return ablation_report.collect(protocol, axes, studies, claims, machine)


def _study(request: Data, folder: Path) -> Data:
    """In the process of a job: search, then score every trial on the test split."""
    from tune.search import run_search  # imports Ray, which the parent has no use for

    study = folder / "study"
    shutil.rmtree(study, ignore_errors=True)
    plan = load_plan_from_space(**request["plan"])
    summary = run_search(plan, study)
    if summary.signalled:
        raise SystemExit(130)
    task = load_task(plan.base.task)
    axis = AXES[request["axis"]]
    return {
        "base": next((arm_of(axis, record.params) for record in summary.records if record.number == 0), None),
        "wanted": summary.wanted,
        "seconds": summary.seconds,
        "trials": [_trial(axis, study, record, task) for record in summary.records],
    }


def _trial(axis: Axis, study: Path, record: TrialRecord, task: Task) -> Data:
    run = run_folder(study, record.number)
    found: Data = {
        "arm": arm_of(axis, record.params),
        "state": str(record.state),
        "score": record.score,
        "reason": record.reason,
        "parameters": record.parameters,
        "reused_stages": list(record.reused_stages),
    }
    if record.state is not Status.COMPLETE:
        return found
    result = json.loads((run / "result.json").read_text())
    surrogate = load_surrogate(run)
    found["stages"] = {
        name: {key: stage.get(key) for key in ("score_before", "score_after", "kept", "seconds")}
        for name, stage in result["stages"].items()
    }
    found["peak_gib"] = _peak(run)
    found["steps"] = _steps(run / "progress.jsonl")
    if "diff_residual" in result["stages"]:
        # what is deployed may be the operator alone: the question here is what the stage itself does
        alone = surrogate.with_inference(corrector="none")
        found["alone"] = [finite(error) for error in training.trajectory_errors(alone, task.test, "rollout")]
        surrogate = surrogate.with_inference(corrector="diffusion")
        own = json.loads((run / "checkpoints" / "diff_residual" / "result.json").read_text())
        found["curve"] = [finite(score) for score in own["milestones"].values()]
    return {**found, **_scores(surrogate, task)}


def _scores(surrogate: Surrogate, task: Task) -> Data:
    begin = time.perf_counter()
    rollout = training.measure(surrogate, task.test, "rollout")
    seconds = time.perf_counter() - begin
    return {
        "errors": [finite(float(error)) for error in rollout.nrmse_S],
        "correlation_time": finite(rollout.values["correlation_time"]),
        "one_step": finite(training.measure(surrogate, task.test, "one_step").values["nrmse"]),
        "ms_per_trajectory": 1e3 * seconds / len(task.test),
    }


def _peak(run: Path) -> float | None:
    """The most memory that a stage trained here has seen, GiB; None where every stage was found in the store."""
    results = [json.loads(path.read_text()) for path in sorted(run.glob("checkpoints/*/result.json"))]
    return max((each["peak_memory_gib"] for each in results if not each.get("reused")), default=None)


def _steps(progress: Path) -> int:
    """How many steps the operator stage made; 0 where it was found in the store."""
    steps = 0
    for line in progress.read_text().splitlines():
        said = json.loads(line)
        if said["stage"] == "operator":
            steps = said["step"]
    return steps


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    made.add_argument("--seconds", type=float, help="of the operator stage of each trial [20]")
    return settle(made.parse_args(words), seconds=(3.0, 20.0))


SCRIPT = Script(NAME, _measure, _study, ablation_report.render)

if __name__ == "__main__":
    sys.exit(common.exit_code(lambda: SCRIPT.run(_arguments())))

"""What a search at test time brings: what any reward could win, what ours win, and what else the time could buy.

    python benchmarks/ttc.py                  # three equations, three seeds
    python benchmarks/ttc.py --report-only    # the section of RESULTS.md again, from the JSON

Surrogates and their competitors are trained first (`ttc_models.py`). The settings of the search are selected on
validation trajectories, by the mean over the seeds; only the selected one is measured on test trajectories. What is
finished stays in the work folder and is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import common
import training
import ttc_jobs
import ttc_models
import ttc_report
import ttc_speed
from common import Job
from pairs import Data
from script import Script, parser, settle
from ttc_models import CASES, Case

from ups.config import RunConfig
from ups.core.types import Status
from ups.data.task import load_task
from ups.inference.build import checkpoint_of

NAME = "ttc"
BATCHES = (1, 16, 64)
MANY = 32
"""candidates that are evaluated in one call, and one by one"""


@dataclass(frozen=True)
class Trained:
    """The surrogate of one case and seed, and the wider operator beside it."""

    case: Case
    seed: int
    config: RunConfig
    job: Job
    wide: Job

    @property
    def complete(self) -> bool:
        return all(job.answer()["status"] == Status.COMPLETE for job in (self.job, self.wide))


def fingerprint(job: Job) -> str:
    """Of what was asked for and of the weights that came out: another model is measured again."""
    weights = checkpoint_of(job.folder / "run").read_bytes()
    return hashlib.sha256(json.dumps(job.request, sort_keys=True).encode() + weights).hexdigest()


def search_job(trained: Trained, kind: str, work: Path, machine: Data, data: str, more: Mapping[str, object]) -> Job:
    """One measurement of a trained surrogate."""
    name = f"{kind} {trained.case.name}, seed {trained.seed}"
    request = {
        **{"kind": kind, "machine": machine, "data": data, "model": fingerprint(trained.job)},
        **{"run": f"{trained.job.folder.name}/run", "config": trained.config.model_dump(mode="json")},
        **more,
    }
    return Job(name, work / name.replace(" ", "_"), request)


def selected(answers: Sequence[Data]) -> str | None:
    """The setting with the least validation error, mean over the seeds; None where no reward was usable."""
    errors: dict[str, float] = {}
    for name in answers[0]["settings"]:
        each = [answer["settings"][name]["error"] for answer in answers]
        if None not in each:
            errors[name] = fmean(each)
    return min(errors, key=lambda name: errors[name], default=None)


def best_plain(answers: Sequence[Data]) -> str:
    """The rollout without a search that has the least validation error, mean over the seeds."""
    errors: dict[str, float] = {}
    for name in answers[0]["plain"]:
        each = [answer["plain"][name]["validation"]["error"] for answer in answers]
        if None not in each:
            errors[name] = fmean(each)
    return min(errors, key=lambda name: errors[name], default="deployed")


def _measure(args: argparse.Namespace, work: Path) -> Data:
    machine = common.machine(args.lanes)
    everything = [_trained(args, case, seed, work, machine) for seed in args.seeds for case in CASES]
    _run([job for each in everything for job in (each.job, each.wide)], args.lanes)
    models = [each for each in everything if each.complete]
    # reduced once, in one process, before anything is timed
    data = {each.case.name: load_task(each.config.task).fingerprint for each in models}

    def job(trained: Trained, kind: str, **more: object) -> Job:
        return search_job(trained, kind, work, machine, data[trained.case.name], more)

    settings = ttc_jobs.grid()
    oracle = {
        **{"counts": args.counts, "oracle_trajectories": args.oracle_trajectories},
        **{"draws": ttc_jobs.DRAWS, "predictors": ttc_jobs.PREDICTORS},
    }
    first = {
        (each.case.name, each.seed): (
            job(each, "oracle", **oracle),
            job(each, "select", settings=settings),
        )
        for each in models
    }
    _run([each for pair in first.values() for each in pair], args.lanes)

    cases: list[Data] = []
    tests: dict[tuple[str, int], Job] = {}
    for case in CASES:
        seeds = [each for each in models if each.case == case]
        found = [tuple(job.answer() for job in first[case.name, each.seed]) for each in seeds]
        choice = selected([select for _, select in found]) if found else None
        plain = best_plain([oracle for oracle, _ in found]) if found else "deployed"
        facts: Data = {"name": case.name, "equation": case.equation, "selected": choice, "best_plain": plain}
        cases.append(facts | {"setting": settings[choice] if choice else None})
        for index, each in enumerate(seeds if choice else []):
            judge = seeds[(index + 1) % len(seeds)]
            another = judge.seed != each.seed
            tests[case.name, each.seed] = job(
                each,
                "test",
                setting=settings[choice or ""],
                best_plain=ttc_jobs.PREDICTORS[plain],
                wide_run=f"{each.wide.folder.name}/run",
                wide_model=fingerprint(each.wide),
                judge_run=f"{judge.job.folder.name}/run" if another else None,
                judge_model=fingerprint(judge.job),
                counts=args.counts,
                members=args.members,
            )
    _run(list(tests.values()), args.lanes)

    speed = None
    if models:
        alone = {"repeats": args.repeats, "steps": args.speed_steps, "batches": BATCHES, "many": MANY}
        speed_job = search_job(models[0], "speed", work, common.machine(1), data[models[0].case.name], alone)
        _run([speed_job], 1)
        speed = {"case": models[0].case.name, "seed": models[0].seed, **speed_job.answer()}

    for facts in cases:
        facts["runs"] = [
            _told(each, first.get((each.case.name, each.seed)), tests.get((each.case.name, each.seed)))
            for each in everything
            if each.case.name == facts["name"]
        ]
    protocol = {
        **{"cells": 256, "frames": 41, "dt": 0.05, **training.split_of(args.quick), "seeds": args.seeds},
        **{"seconds": dict(zip(ttc_models.STAGES, _seconds(args), strict=True)), "wide_seconds": args.wide_seconds},
        **{"wide_hidden_dim": args.wide_hidden_dim, "members": args.members, "counts": args.counts},
        "oracle_trajectories": args.oracle_trajectories,
    }
    return ttc_report.collect(protocol, cases, speed, machine)


def _trained(args: argparse.Namespace, case: Case, seed: int, work: Path, machine: Data) -> Trained:
    config, name = ttc_models.config_of(args, case, seed), f"{case.name}, seed {seed}"
    wide = ttc_models.wide_config_of(args, case, seed)
    return Trained(
        case,
        seed,
        config,
        ttc_models.training_job(args, name, config, work, machine),
        ttc_models.training_job(args, f"wide {name}", wide, work, machine),
    )


def _told(trained: Trained, first: tuple[Job, Job] | None, test: Job | None) -> Data:
    found: Data = {"seed": trained.seed}
    for name, job in (("train", trained.job), ("wide", trained.wide)):
        answer = job.answer()
        found[name] = {key: answer[key] for key in ("status", "reason", "score", "parameters", "core_share")}
    if first is not None:
        found |= {"oracle": first[0].answer(), "select": first[1].answer()}
    if test is not None:
        found["test"] = test.answer()
    return found


def _run(jobs: Sequence[Job], lanes: int) -> None:
    common.run_jobs(Path(__file__), jobs, lanes)


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    if request["kind"] == "train":
        return ttc_models.train(request, folder)
    if request["kind"] == "speed":
        return ttc_speed.work(request, folder)
    return ttc_jobs.work(request, folder)


def _seconds(args: argparse.Namespace) -> tuple[float, float, float]:
    return args.seconds, args.diffusion_seconds, args.distill_seconds


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--seconds", type=float, help="of the operator stage [200]")
    made.add_argument("--diffusion-seconds", type=float, help="of the diffusion residual [80]")
    made.add_argument("--distill-seconds", type=float, help="of its student [40]")
    made.add_argument("--wide-seconds", type=float, help="of the wider operator [365]")
    made.add_argument("--wide-hidden-dim", type=int, help="its channels [96]")
    made.add_argument("--members", type=int, help="of an ensemble [8]")
    made.add_argument("--counts", type=int, nargs="+", help="candidates of the curves [2 4 8 16 32]")
    made.add_argument("--oracle-trajectories", type=int, help="test trajectories that the oracle is shown [32]")
    made.add_argument("--repeats", type=int, help="of what is timed alone [7]")
    made.add_argument("--speed-steps", type=int, help="frames of a rollout that is timed alone [8]")
    return settle(
        made.parse_args(words),
        seconds=(15.0, 200.0),
        diffusion_seconds=(3.0, 80.0),
        distill_seconds=(3.0, 40.0),
        wide_seconds=(15.0, 365.0),
        wide_hidden_dim=(48, 96),
        members=(3, 8),
        counts=([2, 4, 8], [2, 4, 8, 16, 32]),
        oracle_trajectories=(2, 32),
        repeats=(1, 7),
        speed_steps=(2, 8),
    )


SCRIPT = Script(NAME, _measure, _work, ttc_report.render)

if __name__ == "__main__":
    sys.exit(common.exit_code(lambda: SCRIPT.run(_arguments())))

"""What it costs two workers to train one model together, beside two processes that train a model each.

    python benchmarks/ddp.py                  # configs/burgers1d_upt17m.yaml, about 20 minutes on two cores
    python benchmarks/ddp.py --batch-size 4   # smaller batches: gradients weigh more

Both sides run the project's training loop on pinned cores of one machine. A round is one stage of each: first two
processes on their own, both at the same time, then the same two as the ranks of one run, which exchange gradients
and decisions over gloo. Of the two ranks each has half of the config's batch, of the two processes each a whole
one; what is compared is samples a second, summed over both processes. The first steps of a process are slow and
belong to neither; validation, which rank 0 does alone, is left out of both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch
import torch.distributed as dist
import train_overhead
import training
from common import number, table
from script import Script, parser, settle

from ups.config import RunConfig, load_config
from ups.core.errors import UserError
from ups.core.ranks import ALONE, Ranks
from ups.core.types import Progress
from ups.data.task import load_task
from ups.run import build_run_surrogate
from ups.training.loop import train_stage
from ups.training.stages.operator import OperatorStage

NAME = "ddp"
AIM = 0.9
WORKERS = 2
WARM_UP = 2
"""steps of a stage before the clock starts"""

Data = dict[str, Any]
"""plain JSON"""
SPAWN = multiprocessing.get_context("spawn")


def samples_a_second(config: RunConfig, ranks: Ranks, folder: Path, steps: int) -> float:
    """Of this process alone, over the steps of one stage after its warm-up."""
    task = load_task(config.task)
    # every step ends one: a round ends after `steps` of them, whatever the epoch
    stage = OperatorStage(config.stages.operator, build_run_surrogate(config, task), task, config.runtime, ranks)
    stage.no_skill, times = None, list[float]()
    loss = stage.loss

    def counted(index: int, epoch: float, share: float) -> Any:
        if index in (WARM_UP, WARM_UP + steps):
            times.append(time.perf_counter())
        if len(times) == 2:
            raise _Enough
        # the middle of the curriculum: a rollout of two steps, as in most of a real stage
        return loss(index, epoch, 0.5)

    vars(stage).update(loss=counted, score=lambda model: 0.0)
    try:
        train_stage(
            stage,
            folder=folder,
            facts={},
            runtime=config.runtime,
            logging=config.logging,
            report=_ignore,
            resume=False,
            ranks=ranks,
        )
    except _Enough:
        return steps * (stage.part.stop - stage.part.start) / (times[1] - times[0])
    raise UserError(f"--steps: a stage of {config.stages.operator.epochs} epochs ends before step {WARM_UP + steps}")


class _Enough(Exception):
    """All steps are measured."""


def _ignore(progress: Progress) -> None:
    return None


def _member(rank: int, core: int, request: Data, answers: Any, together: str | None) -> None:
    """A pinned process: a rank of one run where it is given a place to meet, else a run of its own."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    config, ranks = RunConfig.parse(request["config"]), ALONE
    if together is not None:
        dist.init_process_group("gloo", init_method=f"file://{together}/meet", rank=rank, world_size=WORKERS)
        ranks = Ranks.of_process_group()
    with tempfile.TemporaryDirectory() as folder:
        answers.put(samples_a_second(config, ranks, Path(folder), request["steps"]))
    if together is not None:
        dist.destroy_process_group()


def measure_side(request: Data, together: bool) -> float:
    """Samples a second of two pinned processes, as ranks of one run or each on its own."""
    answers = SPAWN.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        places = zip(range(WORKERS), request["cores"], strict=True)
        members = [
            SPAWN.Process(target=_member, args=(rank, core, request, answers, folder if together else None))
            for rank, core in places
        ]
        for member in members:
            member.start()
        for member in members:
            member.join()
    if any(member.exitcode for member in members):
        raise RuntimeError(f"a measured process failed, exit codes {[member.exitcode for member in members]}")
    return sum(answers.get() for _ in members)


def measure(args: argparse.Namespace, work: Path) -> Data:
    cores = common.cores()[:WORKERS]
    if len(cores) < WORKERS:
        raise UserError(f"needs {WORKERS} cores, this process may use {len(cores)}")
    config = _config(args)
    load_task(config.task)  # reduced once, not by every process
    request = {"config": config.model_dump(mode="json"), "steps": args.steps, "cores": cores}
    rounds = []
    for index in range(args.rounds):
        sides = ("apart", "together") if index % 2 == 0 else ("together", "apart")
        found = {side: measure_side(request, side == "together") for side in sides}
        common.say(f"round {index + 1} of {args.rounds}: {found['together'] / found['apart']:.3f}")
        rounds.append(found)
    protocol = {"config": args.config, "batch_size": config.stages.operator.batch_size, "steps": args.steps}
    return collect(protocol, rounds, common.machine(WORKERS))


def collect(protocol: Data, rounds: list[Data], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record."""
    ratios = [each["together"] / each["apart"] for each in rounds]
    low, high = train_overhead.median_interval(ratios)
    return {
        "benchmark": NAME,
        "protocol": protocol,
        "machine": machine,
        "rounds": rounds,
        "ratios": ratios,
        "ratio": median(ratios),
        "low": low,
        "high": high,
        "verdict": "reached" if median(ratios) >= AIM else "missed",
        "commit": common.commit(),
        "date": common.today(),
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p, rounds = data["protocol"], data["rounds"]
    names = {"apart": "two processes, a run each", "together": "two workers, one run"}
    rows = [[words, number(median(each[name] for each in rounds))] for name, words in names.items()]
    # of fewer rounds no two order statistics enclose the median so surely
    spread = "95 % interval of order statistics" if len(rounds) >= 6 else "lowest to highest"
    parts = [
        "## Two workers beside two processes",
        f"`{p['config']}` in float32, {len(rounds)} rounds of {p['steps']} steps of each side in turn, in pinned "
        f"processes of one thread. Each of the two runs has batches of {p['batch_size']}; of the two workers each has "
        "its half of such batches, so that gradients are exchanged twice as often for the same samples.",
        table(["", "samples a second (median)"], rows),
        f"Ratio: **{data['ratio']:.3f}** (median of the rounds; {spread} {data['low']:.3f} to "
        f"{data['high']:.3f}; each round: {', '.join(f'{ratio:.3f}' for ratio in data['ratios'])}). The aim, at least "
        f"{AIM:g}, is {data['verdict']}.",
        f"Measured on {common.machine_words(data['machine'], [data])}.",
    ]
    return "\n\n".join(parts)


def _config(args: argparse.Namespace) -> RunConfig:
    file = training.data_file(args.data, 0.01, quick=args.quick)
    changes = {
        **training.headline(file, training.split_of(args.quick)),
        "stages.operator.epochs": 10**4,
        "stages.operator.time_limit_seconds": None,
        "stages.operator.validations": 1,
        "logging.checkpoint_every_n_epochs": 10**4,
        # what a CPU is good at; the config is one for GPUs
        "runtime.precision": "float32",
        "runtime.threads": 1,
        "runtime.device": "cpu",
    }
    if args.batch_size is not None:
        changes["stages.operator.batch_size"] = args.batch_size
    return load_config(args.config, changes)


def _no_work(request: Data, folder: Path) -> Data:
    raise AssertionError("this script has no jobs: both sides need both cores")


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME, seeds=False)
    made.add_argument("--config", default="burgers1d_upt17m", help="[burgers1d_upt17m]")
    made.add_argument("--batch-size", type=int, help="of a run [the config's]")
    made.add_argument("--rounds", type=int, help="of both sides [7]")
    made.add_argument("--steps", type=int, help="of a round [8]")
    return settle(made.parse_args(words), rounds=(1, 7), steps=(2, 8))


def main() -> None:
    Script(NAME, measure, _no_work, render).run(_arguments())


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

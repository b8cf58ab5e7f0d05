"""What the project's training loop costs beside a bare loop over the same batches, forward, backward and step.

    python benchmarks/train_overhead.py                  # configs/burgers1d.yaml, about two minutes on one core
    python benchmarks/train_overhead.py --profile        # where the loop's own time goes

The project's loop is `train_stage` as `ups train` calls it: logging, gradient guard, clipping, averaged weights,
checkpoints. Time inside the validation score is measured apart and not counted. The bare loop makes the same batches
with the same sampler and does nothing else than loss, backward, step. Both take turns step by step, so that a machine
that slows down slows both.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch
import training
from common import Job, number, table
from scipy.stats import binom
from script import Script, parser, settle

from ups.config import RunConfig, load_config
from ups.core.types import Progress
from ups.data.task import Task, load_task
from ups.run import build_run_surrogate
from ups.training.loop import train_stage
from ups.training.stages.operator import OperatorStage

NAME = "train_overhead"
AIM = 1.05
CONFIDENCE = 0.95

Data = dict[str, Any]
"""plain JSON"""


def measure_round(config: RunConfig, task: Task, folder: Path, lag: int) -> Data:
    """Seconds a step of both loops over one stage.

    They take turns step by step, because a shared machine changes its speed by more than the difference from one
    second to the next: the bare loop runs inside the loss that the project's loop asks for, on a model and an
    optimizer of its own, and its time is taken off. `lag` 0 puts the bare step before its twin, 1 after it: the
    second of two finds the batch in the processor's cache.
    """
    stage, bare = build_stage(config, task), BareLoop(build_stage(config, task))
    validation = _Clock(stage.score)
    loss, calls = stage.loss, itertools.count()

    def taking_turns(index: int, epoch: float, share: float) -> Any:
        if next(calls) >= lag:
            bare.step()
        return loss(index, epoch, share)

    vars(stage).update(score=validation, loss=taking_turns)
    begin = time.perf_counter()
    steps = run_loop(stage, config, folder)
    loop = time.perf_counter() - begin - bare.seconds - validation.seconds
    if lag:
        bare.step()
    assert bare.steps == steps
    return {
        "steps": steps,
        "loop": loop / steps,
        "bare": bare.seconds / steps,
        "validation": validation.seconds / steps,
    }


class BareLoop:
    """The same steps without anything around them."""

    def __init__(self, stage: OperatorStage) -> None:
        self.stage = stage
        self.optimizer = stage.config.optimizer.build(stage.model)
        self.total = stage.config.epochs * stage.batches_per_epoch
        self.steps = 0
        self.seconds = 0.0
        stage.model.train()

    def step(self) -> None:
        begin = time.perf_counter()
        share = self.steps / self.total
        loss, _ = self.stage.loss(self.steps, share * self.stage.config.epochs, share)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.seconds += time.perf_counter() - begin


class _Clock:
    """A function whose time is summed up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *given: Any) -> Any:
        begin = time.perf_counter()
        found = self.function(*given)
        self.seconds += time.perf_counter() - begin
        return found


def build_stage(config: RunConfig, task: Task) -> OperatorStage:
    """The stage with a model of its own; equal seeds give equal weights and batches."""
    return OperatorStage(config.stages.operator, build_run_surrogate(config, task), task, config.runtime)


def run_loop(stage: OperatorStage, config: RunConfig, folder: Path) -> int:
    """Train the stage as `ups train` does; gives the number of steps."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "progress.jsonl", "a") as lines:

        def report(progress: Progress) -> None:
            lines.write(json.dumps(asdict(progress)) + "\n")
            lines.flush()

        result = train_stage(
            stage,
            folder=folder / "checkpoints",
            facts={"config": config.model_dump(mode="json")},
            runtime=config.runtime,
            logging=config.logging,
            report=report,
            resume=False,
        )
    # a stage that ended early would be compared with a longer one
    assert result.steps == stage.config.epochs * stage.batches_per_epoch, (result.status, result.reason)
    return result.steps


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics that hold the median with `CONFIDENCE`, or all there is: no distribution is assumed.

    Between the k-th smallest and the k-th largest of n lies the median, unless fewer than k of n fell on one side
    of it: binomial with one half.
    """
    ordered = sorted(values)
    k = int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    # ppf is the smallest count that reaches the tail; one less stays inside it
    k = max(1, k if binom.cdf(k - 1, len(ordered), 0.5) <= (1 - CONFIDENCE) / 2 else k - 1)
    return ordered[k - 1], ordered[-k]


def collect(protocol: Data, found: Data, machine: Data) -> Data:
    """Everything that was measured as one JSON-able record."""
    ratios = [each["loop"] / each["bare"] for each in found["rounds"]]
    low, high = median_interval(ratios)
    return {
        "benchmark": NAME,
        "protocol": protocol,
        "machine": machine,
        **found,
        "ratios": ratios,
        "ratio": median(ratios),
        "low": low,
        "high": high,
        "verdict": "reached" if median(ratios) <= AIM else "missed",
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p, rounds = data["protocol"], data["rounds"]
    names = {"loop": "the project's loop", "bare": "bare loop", "validation": "validation, not counted"}
    rows = [[words, number(1e3 * median(each[name] for each in rounds))] for name, words in names.items()]
    parts = [
        "## What training adds to a bare loop",
        f"`{p['config']}`, {len(rounds)} rounds of {rounds[0]['steps']} steps of each loop, step by step in turn. The "
        f"project's loop (logging every {p['log_every_n_steps']} steps, gradient guard, clipping, averaged weights, "
        "the two checkpoints of one validation a round) against loss, backward and step alone, with the same batches "
        "from the same sampler.",
        table(["", "ms a step (median)"], rows),
        f"Ratio: **{data['ratio']:.3f}** (median of the rounds; 95 % interval of order statistics {data['low']:.3f} to "
        f"{data['high']:.3f}; each round: {', '.join(f'{ratio:.3f}' for ratio in data['ratios'])}). The aim, at most "
        f"{AIM:g}, is {data['verdict']}.",
        f"Measured on {common.machine_words(data['machine'], [data])}.",
    ]
    return "\n\n".join(parts)


def _config(args: argparse.Namespace) -> RunConfig:
    file = training.data_file(args.data, 0.01, quick=args.quick)
    return load_config(
        args.config,
        {
            **training.headline(file, training.split_of(args.quick)),
            "stages.operator.epochs": 1,
            "stages.operator.time_limit_seconds": None,
            "stages.operator.windows_per_trajectory": args.windows,
            "stages.operator.validations": 1,
            "runtime.threads": 1,
            "runtime.device": "cpu",
        },
    )


def _measure(args: argparse.Namespace, work: Path) -> Data:
    machine = common.machine(1)
    config = _config(args)
    request = {
        "machine": machine,
        "data": load_task(config.task).fingerprint,
        "config": config.model_dump(mode="json"),
        "rounds": args.rounds,
    }
    job = Job("the project's loop and a bare one", work / "rounds", request)
    common.run_jobs(Path(__file__), [job], 1)
    protocol = {"config": args.config, "log_every_n_steps": config.logging.log_every_n_steps}
    return collect(protocol, job.answer(), machine)


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    config = RunConfig.parse(request["config"])
    task = load_task(config.task)
    places = (folder / f"loop{number}" for number in itertools.count())
    # the first steps of a process are slow: they belong to neither
    measure_round(config.override({"stages.operator.windows_per_trajectory": 1}), task, next(places), 0)
    return {"rounds": [measure_round(config, task, next(places), k % 2) for k in range(request["rounds"])]}


def _profile(args: argparse.Namespace) -> None:
    """Print where the time of the project's loop goes, by function."""
    torch.set_num_threads(1)
    config = _config(args)
    task = load_task(config.task)
    profile = cProfile.Profile()
    stage = build_stage(config, task)
    profile.runcall(run_loop, stage, config, args.work / NAME / "profile")
    pstats.Stats(profile).sort_stats("cumulative").print_stats(r"loop|guard|optim|state|stages|checkpoint|batches", 30)


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME, seeds=False)
    made.add_argument("--config", default="burgers1d", help="[burgers1d]")
    made.add_argument("--rounds", type=int, help="of both loops [6]")
    made.add_argument("--windows", type=int, help="of each trajectory, which makes a round long [4]")
    made.add_argument("--profile", action="store_true", help="only print where the loop's time goes")
    return settle(made.parse_args(words), rounds=(2, 6), windows=(4, 4))


def main() -> None:
    args = _arguments()
    if args.profile:
        _profile(args)
    else:
        Script(NAME, _measure, _work, render).run(args)


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

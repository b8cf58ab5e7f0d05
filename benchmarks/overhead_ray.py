"""What the project adds to Ray Tune: searches of trials that do nothing, and the way from a trial to its first step."""

from __future__ import annotations

import tune.ray_env  # isort: skip  # noqa: F401  (before Ray)

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
from optuna.samplers import TPESampler
from overhead_memory import resident_bytes
from pairs import Data
from ray import tune as ray_tune
from ray.tune.search.optuna import OptunaSearch

from tune.checks import load_plan_from_space
from tune.running import NoView, Snapshot
from tune.search import embedded_ray, run_search
from tune.space import Space
from tune.study import Plan, TrialRecord
from tune.views import distribution_of
from ups.config import RunConfig
from ups.core.types import Progress, Report, RunResult, Status

BARE, SAMPLERS = "bare", ("tpe", "stage_tree")
METRIC, LR, TOKENS = "rollout_nrmse", "stages.operator.optimizer.lr", "latent.tokens"
PARTS = ("tune", "data", "build", "step")


def searches_of_nothing(folder: Path, *, rounds: int, trials: int, concurrency: int) -> Data:
    """Seconds and memory of whole searches, one after the other in one Ray; which is the first changes by the round.

    Ray Tune alone is set up as documented for many short trials: reused actors, a limit on what runs at a time, and
    the same Optuna sampler with the same settings. Everything that an environment variable says is the same for both.
    """
    searches: list[Data] = []
    with embedded_ray(concurrency):
        # what the first search in a Ray takes longer belongs to none
        _bare(_plan("tpe", 2 * concurrency, concurrency, 0), folder / "warm")
        kinds = (BARE, *SAMPLERS)
        for number in range(rounds):
            for kind in (*kinds[number % 3 :], *kinds[: number % 3]):
                place = folder / f"{number}_{kind}"
                shutil.rmtree(place, ignore_errors=True)
                plan = _plan("tpe" if kind == BARE else kind, trials, concurrency, number)
                before, begin = resident_bytes(), time.perf_counter()
                ends = (_bare if kind == BARE else _ours)(plan, place)
                seconds = time.perf_counter() - begin
                assert len(ends) == trials, f"{len(ends)} of {trials} trials of {kind} ended well"
                searches.append({
                    **{"round": number, "kind": kind, "seconds": seconds},
                    **{"to_first_end": ends[0] - begin, "between_ends": (ends[-1] - ends[0]) / max(1, trials - 1)},
                    "bytes_a_trial": (resident_bytes() - before) / trials,
                })  # fmt: skip
                common.say(f"round {number}, {kind}: {seconds:.1f} s")
    return {"trials": trials, "concurrency": concurrency, "searches": searches}


def first_steps(folder: Path, *, trials: int, overrides: Mapping[str, Any]) -> Data:
    """Seconds from the moment in which the driver hands a trial out to its first training step, real training in one
    worker, without the first trial of a process."""
    plan = load_plan_from_space(
        "demo",
        {"logging.log_every_n_steps": 1, "stages.operator.epochs": 1, **overrides},
        _changes("random", trials, 1, 0),
    )
    shutil.rmtree(folder, ignore_errors=True)
    starts = _Starts()
    with embedded_ray(1):
        run_search(plan, folder, view=starts, trainer=_watched_trainer())
    rows: list[Data] = []
    seen: set[int] = set()
    for number, handed_out in sorted(starts.handed_out.items()):
        path = folder / "runs" / f"{number:04d}" / "first_step.json"
        if path.is_file():
            noted = json.loads(path.read_text())
            if noted["process"] in seen:
                ends = [handed_out, noted["called"], noted["loaded"], noted["began"], noted["stepped"]]
                parts = [end - begin for begin, end in pairwise(ends)]
                rows.append({"number": number, "total": sum(parts), **dict(zip(PARTS, parts, strict=True))})
            seen.add(noted["process"])
    return {"trials": trials, "starts": rows}


class _Starts(NoView):
    """When trials were handed out, as the driver says with its first word on each."""

    def __init__(self) -> None:
        self.handed_out: dict[int, float] = {}

    def progress(self, snapshot: Snapshot) -> None:
        for running in snapshot.running:
            if running.since is not None:
                self.handed_out.setdefault(running.trial.number, running.since)


def _plan(sampler: str, trials: int, concurrency: int, seed: int) -> Plan:
    return load_plan_from_space("demo", changes=_changes(sampler, trials, concurrency, seed))


def _changes(sampler: str, trials: int, concurrency: int, seed: int) -> dict[str, Any]:
    strategy = {"sampler": sampler, "scheduler": "none", "trials": trials, "seed": seed}
    return {**{f"strategy.{name}": value for name, value in strategy.items()}, "resources.concurrency": concurrency}


def _ours(plan: Plan, folder: Path) -> list[float]:
    """When trials ended well, in seconds of `time.perf_counter`."""
    ends = _Ends()
    run_search(plan, folder, view=ends, trainer=_idle_trainer())
    return ends.times


def _bare(plan: Plan, folder: Path) -> list[float]:
    """The same of plain Ray Tune on the same space."""
    strategy, score = plan.config.strategy, _score()
    metric, names = METRIC, (LR, TOKENS)

    def run(params: dict[str, Any]) -> None:
        ray_tune.report({metric: score(*(params[name] for name in names))})

    concurrency = plan.config.resources.concurrency
    assert isinstance(concurrency, int)
    with warnings.catch_warnings(action="ignore"):  # of options that Optuna calls experimental
        sampler = TPESampler(
            seed=strategy.seed,
            n_startup_trials=strategy.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
    searcher = _WatchedSearch(space=_Ask(plan.space), metric=METRIC, mode="min", sampler=sampler)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(run, {"cpu": 1}),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            num_samples=strategy.trials,
            max_concurrent_trials=concurrency,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(name="bare", storage_path=str(folder.absolute()), verbose=0),
    )
    tuner.fit()
    return searcher.times


class _Ends(NoView):
    def __init__(self) -> None:
        self.times: list[float] = []

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None:
        if record.state is Status.COMPLETE:
            self.times.append(time.perf_counter())


class _WatchedSearch(OptunaSearch):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.times: list[float] = []

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        if not error:
            self.times.append(time.perf_counter())


@dataclass(frozen=True)
class _Ask:
    """A space as OptunaSearch asks for it; not a nested function, as Tune pickles it."""

    space: Space

    def __call__(self, trial: Any) -> dict[str, Any]:
        return self.space.draw(lambda name, domain: trial._suggest(name, distribution_of(domain)))


def _score() -> Callable[[float, int], float]:
    """Of a trial that does nothing: something for a sampler to learn. Nested, as everything that a worker gets: it
    does not know the modules of this folder."""
    return lambda lr, tokens: 0.1 + 0.02 * (math.log10(lr) + 2) ** 2 + 0.01 * abs(math.log2(tokens) - 4)


def _idle_trainer() -> Callable[..., RunResult]:
    score = _score()

    def train(config: RunConfig, out: Path, report: Report, **settings: Any) -> RunResult:
        found = score(config.stages.operator.optimizer.lr, config.latent.tokens)
        return RunResult(Status.COMPLETE, "", found, {"operator:1": found}, 0.0, 1, out)

    return train


def _watched_trainer() -> Callable[..., RunResult]:
    def train(config: RunConfig, out: Path, report: Report, **settings: Any) -> RunResult:
        noted: dict[str, float] = {"process": os.getpid(), "called": time.monotonic()}
        from ups.data.task import load_task
        from ups.run import train_run

        task = load_task(config.task)
        noted["loaded"] = time.monotonic()

        def watch(progress: Progress) -> None:
            if "stepped" not in noted:
                noted["stepped"] = time.monotonic()
                noted["began"] = noted["stepped"] - progress.seconds
                (out / "first_step.json").write_text(json.dumps(noted))
            report(progress)

        return train_run(config, out, watch, task=task, **settings)

    return train

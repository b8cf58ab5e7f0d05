"""One real search each: `ups search` and Ray Tune with OptunaSearch and ASHA, the same trainer, space and time.

Every search has one core for itself, one trial at a time and the same wall time, Ray's own processes included.
"""

from __future__ import annotations

import tune.ray_env  # isort: skip  # noqa: F401  (before Ray)

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import baseline
import common
from baseline import CLIPPED, GRACE_PERCENT, MAX_PERCENT, METRIC, REDUCTION_FACTOR, progress_percent
from common import Job, machine_words, number, table
from pairs import Data

from tune.checks import load_plan_from_space
from tune.domain import Domain, Value, from_journal, to_journal
from tune.running import Snapshot
from tune.space import Space
from tune.study import Plan, TrialRecord
from ups.core.errors import ConfigError
from ups.core.types import Progress, Status

KINDS = {"ours": "`ups search`", "ray": "Ray Tune, OptunaSearch and ASHA, tuned"}
SHARES = (0.1, 0.25, 0.5, 1.0)
_FINISHED = "finished.jsonl"
_ENDLESS = 10**6


def measure(args: argparse.Namespace, work: Path) -> Data:
    """Both searches for every seed."""
    jobs: dict[tuple[str, int], Job] = {}
    for seed in args.seeds:
        for kind in KINDS:
            request = {"which": kind, "seed": seed, "seconds": args.real, "space": args.space}
            jobs[kind, seed] = Job(f"{KINDS[kind]}, seed {seed}", work / f"{kind}_{seed}", request)
    common.run_jobs(Path(__file__), list(jobs.values()), args.lanes)
    return {
        "benchmark": "search_cost_real",
        "protocol": {"seconds": args.real, "space": args.space, "seeds": args.seeds},
        "machine": common.machine(args.lanes),
        "searches": [{"kind": kind, "seed": seed, **job.answer()} for (kind, seed), job in jobs.items()],
    }


def work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    search = _search_ours if request["which"] == "ours" else _search_with_ray
    place = folder / f"search_{int(time.time())}"
    begin = time.time()
    ended = search(request, place)
    return {
        "ended": [{**each, "seconds": each["at"] - begin} for each in ended],
        "wall_seconds": time.time() - begin,
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p = data["protocol"]
    rows = []
    for found in data["searches"]:
        best = [_best(found["ended"], share * p["seconds"]) for share in SHARES]
        states = [each["state"] for each in found["ended"]]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        rows.append([KINDS[found["kind"]], str(found["seed"]), *map(number, best), counts])
    header = ["", "seed", *(f"best after {share * p['seconds']:,.0f} s" for share in SHARES), "trials"]
    return "\n\n".join([
        f"## Real searches of `{p['space']}`, {p['seconds']:,.0f} s on one core each",
        "Best validation nRMSE of a complete trial. The same trainer, base config first, one trial at a time, reused "
        "actors; Ray Tune with explosions and refused configs reported as a bad score, and ASHA over the share of the "
        f"trial (grace {GRACE_PERCENT:g} %, factor {REDUCTION_FACTOR}). Ray's own processes run on the same core.",
        table(header, rows),
        f"Measured on {machine_words(data['machine'], data['searches'])}.",
    ])  # fmt: skip


def _best(ended: list[Data], seconds: float) -> float | None:
    scores = [each["score"] for each in ended if each["state"] == Status.COMPLETE and each["seconds"] <= seconds]
    return min((score for score in scores if score is not None), default=None)


def _search_ours(request: Data, place: Path) -> list[Data]:
    from tune.search import run_search

    changes = {
        **{"strategy.sampler": "stage_tree", "strategy.trials": _ENDLESS, "strategy.seed": request["seed"]},
        **{"budget.time": f"{request['seconds']:g}s", "resources.concurrency": 1},
    }
    ends = _Ends()
    run_search(load_plan_from_space(request["space"], changes=changes), place, view=ends)
    return ends.trials


class _Ends:
    """Looks at a search and writes down when its trials end."""

    def __init__(self) -> None:
        self.trials: list[Data] = []

    def progress(self, snapshot: Snapshot) -> None:
        return None

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None:
        self.trials.append({"at": time.time(), "state": str(record.state), "score": record.score})


def _search_with_ray(request: Data, place: Path) -> list[Data]:
    # first of all: it sets what Ray reads from the environment
    from tune.search import embedded_ray  # isort: skip
    import ray
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    # workers do not find the modules of this folder
    ray.cloudpickle.register_pickle_by_value(baseline)
    plan = load_plan_from_space(request["space"])
    place.mkdir(parents=True)
    base = {name: to_journal(value) for name, value in plan.space.params_of(plan.base).items()}
    searcher = OptunaSearch(
        partial(_suggest, plan.space), metric=METRIC, mode="min", seed=request["seed"], points_to_evaluate=[base]
    )
    scheduler = ASHAScheduler(
        time_attr="progress", metric=METRIC, mode="min", max_t=MAX_PERCENT, reduction_factor=REDUCTION_FACTOR,
        grace_period=GRACE_PERCENT,  # type: ignore[arg-type]  # it may be any number
    )  # fmt: skip
    with embedded_ray(1):
        ray_tune.Tuner(
            ray_tune.with_resources(_trainable(plan, place.absolute(), os.getcwd()), {"cpu": 1}),
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher, scheduler=scheduler, num_samples=-1, max_concurrent_trials=1,
                time_budget_s=request["seconds"], reuse_actors=True,
            ),
            run_config=ray_tune.RunConfig(storage_path=str(place.absolute()), name="ray", verbose=0),
        ).fit()  # fmt: skip
    path = place / _FINISHED
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _suggest(space: Space, trial: Any) -> None:
    """The space in Optuna's define-by-run words."""

    def value(name: str, domain: Domain) -> Value:
        if domain.choice is not None:
            return from_journal(trial.suggest_categorical(name, [to_journal(option) for option in domain.choice]))
        low, high = domain.bounds
        if domain.integers is not None:
            return trial.suggest_int(name, int(low), int(high), log=domain.log)
        return trial.suggest_float(name, low, high, log=domain.log)

    space.draw(value)


def _trainable(plan: Plan, place: Path, directory: str) -> Callable[[dict[str, Any]], None]:
    """What a user of Ray Tune would write around this project's trainer."""

    def trainable(params: dict[str, Any]) -> None:
        import torch
        from ray import tune as ray_tune

        from ups.run import train_run

        os.chdir(directory)  # data files are relative to it
        torch.set_num_threads(1)
        last = {"progress": 0.0}

        def report(progress: Progress) -> None:
            if progress.score is not None:
                last["progress"] = progress_percent(progress.stage, progress.share)
                ray_tune.report({METRIC: progress.score, "progress": last["progress"]})

        score, state = None, str(Status.INFEASIBLE)
        try:
            config = plan.space.config_of({name: from_journal(value) for name, value in params.items()})
            folder = place / "runs" / ray_tune.get_context().get_trial_id()
            result = train_run(config, folder, report, evaluate_on="none")
            score, state = result.score, str(result.status)
        except ConfigError:
            pass
        complete = state == Status.COMPLETE and score is not None and math.isfinite(score)
        with open(place / _FINISHED, "a", encoding="utf-8") as stream:
            line = {"at": time.time(), "state": state, "score": score if complete else None}
            stream.write(json.dumps(line) + "\n")
        ray_tune.report({METRIC: score if complete else CLIPPED, "progress": last["progress"], "done": True})

    return trainable


if __name__ == "__main__":
    made = argparse.ArgumentParser(description="Answers one job of search_cost.py --real.")
    made.add_argument("--job", type=Path, required=True)
    common.answer(made.parse_args().job, work)

"""What a search costs: plain Ray Tune with OptunaSearch and ASHA against the project's own, in core-seconds.

    python benchmarks/stage_table.py                     # once: the table of real learning curves
    python benchmarks/search_cost.py                     # replays searches on it, 20 seeds of the search
    python benchmarks/search_cost.py --real 1800         # one real search each, 1,800 s on a core of its own
    python benchmarks/search_cost.py --report-only       # the section of RESULTS.md again, from the JSON

Every replayed search decides with its real code, on a simulated clock, and pays what training cost when the table was
recorded. All have the same number of workers and the same budget of core-seconds. Answers that are finished stay in
the work folder and are not computed again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import common
import search_cost_real
import search_cost_report
from baseline import GRACE_PERCENT, REDUCTION_FACTOR
from common import Job
from pairs import Data
from replay_clock import Found, Simulation
from replay_policies import DOCUMENTED, TUNED, RayPolicy, StudyPolicy, unlimited
from replay_table import Table, digest
from script import Script, parser, settle
from stage_grid import OUT, SPACE, read_table

from tune.checks import load_plan_from_space
from tune.study import Plan
from ups.core.errors import UserError

NAME = "search_cost"
WORKERS = 4
OTHER_WORKERS = (2, 8)
"""numbers of workers that the two main strategies are compared with as well"""
FULL_RUNS = 200
"""the budget in whole trials"""
OURS = {
    "ours": ("stage_tree", "milestone_asha", True),
    "ours, TPE": ("tpe", "milestone_asha", True),
    "ours, no reuse": ("tpe", "milestone_asha", False),
    "random": ("random", "none", False),
}
"""strategy -> sampler, scheduler, whether finished stages are shared"""
STRATEGIES = ("ray", "ray tuned", *OURS)
TRIED = [(grace, factor) for factor in (2, 3, 4) for grace in (6.25, 12.5, 25.0)]
"""graces and reduction factors that were tried for the tuned baseline"""
TRIED_SEEDS = (1000, 6)
"""its seeds of the search there, apart from those that are compared: the first and how many"""


def search(
    table: Table,
    plan: Plan,
    strategy: str,
    workers: int,
    budget: float,
    *,
    seed: int,
    asha: Sequence[float] = (GRACE_PERCENT, REDUCTION_FACTOR),
) -> Data:
    """One search from its first trial to the end of its budget.

    Args:
        asha: grace period in percent of a trial and reduction factor of the tuned baseline.
    """
    if strategy in OURS:
        sampler, scheduler, reuse = OURS[strategy]
        changes = {"strategy.sampler": sampler, "strategy.scheduler": scheduler, "strategy.seed": seed}
        with StudyPolicy(unlimited(plan, changes), table.path_of, workers=workers, reuse=reuse) as policy:
            simulation = Simulation(policy, table, workers=workers, budget=budget)
            policy.clock = lambda: simulation.clock
            return _replay(simulation)
    # like the project's own search, the tuned one starts from the base
    base = plan.base.flat()
    starts_at = {name: base[name] for name in table.names}
    tuned = replace(TUNED, starts_at=starts_at, grace_period=asha[0], reduction_factor=asha[1])
    settings = DOCUMENTED if strategy == "ray" else tuned
    return _replay(Simulation(RayPolicy(table, settings, seed), table, workers=workers, budget=budget))


def full_run_seconds(table: Table) -> float:
    """Mean core-seconds of a trial that goes through all stages and finds nothing finished."""
    return sum(table.stage_seconds.values())


def table_facts(table: Table) -> Data:
    """What a reader has to know of a table."""
    finals = table.finals
    return {
        "best": finals[0],
        "median": finals[len(finals) // 2],
        "within_1_percent": sum(score <= 1.01 * finals[0] for score in finals),
        "complete": len(finals),
        "stage_seconds": table.stage_seconds,
        "counts": table.counts,
    }


def _replay(simulation: Simulation) -> Data:
    begin = time.process_time()
    found = simulation.run()
    return {**_plain(found), "decision_seconds": time.process_time() - begin}


def _plain(found: Found) -> Data:
    half = len(found.diverged) // 2
    shares = [sum(part) / len(part) for part in (found.diverged[:half], found.diverged[half:]) if part]
    return {**asdict(found), "diverged": shares, "trials": dict(found.trials), "trained": dict(found.trained)}


def _measure(args: argparse.Namespace, work: Path) -> Data:
    if not args.table.is_file():
        raise UserError(f"{args.table}: no table of learning curves here; run benchmarks/stage_table.py first")
    data = read_table(args.table)
    tables = {seed: Table(data, seed) for seed in data["protocol"]["seeds"]}
    whole = sum(map(full_run_seconds, tables.values())) / len(tables)
    budget = round(args.full_runs * whole)
    common_request = {
        **{"table": str(args.table.absolute()), "digest": digest(data), "budget": budget},
        **{"asha": [GRACE_PERCENT, REDUCTION_FACTOR], "tuned": asdict(TUNED)},
    }
    combinations = [(strategy, WORKERS) for strategy in STRATEGIES]
    combinations += [(strategy, workers) for workers in OTHER_WORKERS for strategy in ("ray tuned", "ours")]
    jobs: dict[tuple[str, int, int], Job] = {}
    for strategy, workers in combinations:
        for seed in tables:
            request = {
                **{"strategy": strategy, "workers": workers, "table_seed": seed},
                **{"seeds": args.seeds, **common_request},
            }
            folder = work / f"{strategy.replace(', ', '_').replace(' ', '_')}_{workers}_{seed}"
            jobs[strategy, workers, seed] = Job(f"{strategy}, {workers} workers, table {seed}", folder, request)
    first, count = TRIED_SEEDS
    seeds = list(range(first, first + min(count, len(args.seeds))))
    tried: dict[tuple[float, int, int], Job] = {}
    for asha in TRIED:
        for seed in tables:
            request = {**common_request, "strategy": "ray tuned", "workers": WORKERS, "table_seed": seed}
            folder = work / f"tried_{asha[0]:g}_{asha[1]}_{seed}"
            name = f"ray tuned, grace {asha[0]:g} %, factor {asha[1]}, table {seed}"
            tried[*asha, seed] = Job(name, folder, {**request, "seeds": seeds, "asha": list(asha)})
    common.run_jobs(Path(__file__), [*tried.values(), *jobs.values()], args.lanes)
    answers = {key: job.answer() for key, job in jobs.items()}
    protocol = {
        "budget": budget,
        "full_run_seconds": whole,
        "full_runs": args.full_runs,
        "workers": WORKERS,
        "other_workers": list(OTHER_WORKERS),
        "seeds": args.seeds,
        "tuned": asdict(TUNED),
        "tried_seeds": seeds,
        "levels": {stage: len(levels) for stage, levels in data["protocol"]["levels"].items()},
        "tables": {str(seed): table_facts(table) for seed, table in tables.items()},
    }
    grid = {key: job.answer() for key, job in tried.items()}
    return search_cost_report.collect(protocol, answers, grid, common.machine(args.lanes))


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    table = Table(read_table(Path(request["table"])), request["table_seed"])
    plan = load_plan_from_space(str(SPACE))
    about = request["strategy"], request["workers"], request["budget"]
    return {"searches": [search(table, plan, *about, seed=seed, asha=request["asha"]) for seed in request["seeds"]]}


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--table", type=Path, default=OUT, help=f"[{OUT}]")
    made.add_argument("--full-runs", type=float, help=f"budget in whole trials [{FULL_RUNS}]")
    made.add_argument("--real", type=float, metavar="SECONDS", help="real searches instead, each of so many seconds")
    made.add_argument("--space", default="burgers1d_small", help="of the real searches [burgers1d_small]")
    args = made.parse_args(words)
    seeds = ([0, 1], [0] if args.real else list(range(20)))
    if args.seeds is None:
        args.seeds = seeds[0] if args.quick else seeds[1]
    return settle(args, full_runs=(30.0, float(FULL_RUNS)))


def main() -> None:
    args = _arguments()
    real = Script(f"{NAME}_real", search_cost_real.measure, search_cost_real.work, search_cost_real.render)
    replayed = Script(NAME, _measure, _work, search_cost_report.render)
    (real if args.real else replayed).run(args)


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

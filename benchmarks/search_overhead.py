"""What the search itself costs: beside bare Ray Tune, before the first step, in memory, and with 1,000 workers.

    python benchmarks/search_overhead.py                 # about half an hour; nothing else may run meanwhile
    python benchmarks/search_overhead.py --report-only   # the section of RESULTS.md again, from the JSON

The simulated search needs the table of learning curves, `stage_table.py`; the starts need `data/demo.h5`, which
`make demo` writes. Answers that are finished stay in the work folder and are not computed again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import common
import overhead_ray
import overhead_report
import overhead_scale
from common import Job
from pairs import Data
from replay_table import digest
from script import Script, parser, settle
from stage_grid import OUT, read_table

from ups.core.errors import UserError

NAME = "search_overhead"
CONCURRENCY = 2


def _measure(args: argparse.Namespace, work: Path) -> Data:
    file = args.data / "demo.h5"
    if not args.table.is_file():
        raise UserError(f"{args.table}: no table of learning curves here; run benchmarks/stage_table.py first")
    if not file.is_file():
        raise UserError(f"{file}: missing; `make demo` writes it")
    machine = common.machine(1)
    place = {"machine": machine, "cores": common.cores()}
    curves = {"table": str(args.table.absolute()), "digest": digest(read_table(args.table)), "machine": machine}
    requests: dict[str, Data] = {
        "nothing": {"rounds": args.rounds, "trials": args.trials, "concurrency": CONCURRENCY, **place},
        "start": {"trials": args.starts, "file": str(file.absolute()), **place},
        "scale": {"workers": args.workers, "trials": args.simulated, **curves},
        "memory": {"workers": min(args.workers, 100), "trials": args.simulated // 2, **curves},
    }
    jobs = {name: Job(name, work / name, {"kind": name, **request}) for name, request in requests.items()}
    # one at a time: each is slower beside another
    common.run_jobs(Path(__file__), list(jobs.values()), 1)
    protocol = {"shortest_seconds": overhead_scale.SHORTEST_SECONDS}
    return overhead_report.collect(protocol, {name: job.answer() for name, job in jobs.items()}, machine)


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    if request["kind"] in ("scale", "memory"):
        search = overhead_scale.simulate if request["kind"] == "scale" else overhead_scale.traced
        return search(Path(request["table"]), workers=request["workers"], trials=request["trials"], seed=0)
    # Ray has processes of its own, which belong to what is measured
    os.sched_setaffinity(0, request["cores"])
    if request["kind"] == "start":
        overrides = {"task.files": [request["file"]]}
        return overhead_ray.first_steps(folder / "study", trials=request["trials"], overrides=overrides)
    settings = {name: request[name] for name in ("rounds", "trials", "concurrency")}
    return overhead_ray.searches_of_nothing(folder / "searches", **settings)


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME, seeds=False)
    made.add_argument("--table", type=Path, default=OUT, help=f"[{OUT}]")
    made.add_argument("--rounds", type=int, help="of searches of nothing, in turn [5]")
    made.add_argument("--trials", type=int, help="that do nothing, of one search [500]")
    made.add_argument("--starts", type=int, help="trials of real training [21]")
    made.add_argument("--workers", type=int, help="simulated [1000]")
    made.add_argument("--simulated", type=int, help="trials; half as many where Python's memory is traced [10000]")
    full = {"rounds": (1, 5), "trials": (6, 500), "starts": (3, 21), "workers": (10, 1000), "simulated": (60, 10000)}
    return settle(made.parse_args(words), **full)


def main() -> None:
    Script(NAME, _measure, _work, overhead_report.render).run(_arguments())


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

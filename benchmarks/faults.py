"""Every kind of failure, each made several times while `ups search` runs: what is lost, and what it costs.

    python benchmarks/faults.py                        # five times each, about half an hour on two cores
    python benchmarks/faults.py --cases fill_disk      # some of them
    python benchmarks/faults.py --report-only          # the section of RESULTS.md again, from the JSON

Each run is a study of its own with real training, real processes and, where the case has a cluster, real raylets. The
cases are in `fault_cases.py`; the tests run each of them once. Runs that are finished stay in the work folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import common
import faults_report
from common import Job
from fault_cases import CASES
from fault_study import INTERVAL, make_data, undisturbed_scores
from pairs import Data
from script import Script, parser, settle

NAME = "faults"


def _measure(args: argparse.Namespace, work: Path) -> Data:
    data = work / "burgers.h5"
    if not data.exists():
        make_data(data)
    cases = [case for case in CASES if case.name in args.cases]
    place = {"data": str(data.absolute()), "cores": common.cores()}
    sizes = sorted({(case.steps, case.trials) for case in cases})
    plain = {
        (steps, trials): Job(
            f"{trials} trials of {steps} steps without a fault",
            work / f"undisturbed-{steps}-{trials}",
            {"case": None, "steps": steps, "trials": trials, **place},
        )
        for steps, trials in sizes
    }
    common.run_jobs(Path(__file__), list(plain.values()), 1)
    jobs = [
        Job(
            f"{case.name}, run {index + 1}",
            work / case.name / str(index),
            {"case": case.name, "undisturbed": plain[case.steps, case.trials].answer()["scores"], **place},
        )
        for index in range(args.runs)
        for case in cases
    ]
    # one at a time: a fault hits a search that has the machine for itself
    common.run_jobs(Path(__file__), jobs, 1)
    protocol = {"runs": args.runs, "interval": INTERVAL}
    return faults_report.collect(protocol, [job.answer() for job in jobs], common.machine(1))


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    # the search has processes of its own, which share the machine as they would
    os.sched_setaffinity(0, request["cores"])
    if request["case"] is None:
        return {"scores": undisturbed_scores(Path(request["data"]), request["steps"], request["trials"])}
    case = next(case for case in CASES if case.name == request["case"])
    shutil.rmtree(folder / "search", ignore_errors=True)
    with case.search(folder / "search", Path(request["data"])) as search:
        search.start()
        hit = case.strike(search)
        code = search.wait()
    verdict = search.verdict(request["undisturbed"])
    return {
        "case": case.name,
        "code": code,
        "wrong": list(verdict.wrong),
        "trials": search.trials,
        "states": verdict.states,
        "hit": list(hit.trials),
        "seconds": hit.seconds,
        "note": hit.note,
        "repeated": {str(number): steps for number, steps in verdict.repeated.items()},
    }


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    names = [case.name for case in CASES]
    made = parser(__doc__, NAME, seeds=False)
    made.add_argument("--cases", nargs="+", choices=names, default=names, help="[all of them]")
    made.add_argument("--runs", type=int, help="of each case [5]")
    return settle(made.parse_args(words), runs=(1, 5))


def main() -> None:
    Script(NAME, _measure, _work, faults_report.render).run(_arguments())


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

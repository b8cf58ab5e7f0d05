"""What every benchmark script does alike: its options, its jobs' processes, its JSON and its section of RESULTS.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
from pairs import Data

from ups.core.errors import UserError

QUICK_SEEDS = [0, 1]


@dataclass(frozen=True)
class Script:
    name: str
    """of the JSON, of the work folder and of the section"""
    measure: Callable[[argparse.Namespace, Path], Data]
    """everything that is measured, given the options and the work folder"""
    work: Callable[[Data, Path], Data]
    """what a job's process does with its request and its folder"""
    render: Callable[[Data], str]

    def run(self, args: argparse.Namespace) -> None:
        """Answer one job, or measure and report.

        Raises:
            UserError: nothing to report.
            RuntimeError: a job failed.
        """
        if args.job:
            common.answer(args.job, self.work)
            return
        folder = args.work / "quick" if args.quick else args.work
        out = args.out or (folder if args.quick else Path("benchmarks/results")) / f"{self.name}.json"
        results = args.results or (out.with_suffix(".md") if args.quick else common.RESULTS)
        if not args.report_only:
            common.write_json(out, self.measure(args, folder / self.name))
        if not out.is_file():
            raise UserError(f"{out}: no results here; run without --report-only first")
        common.update_section(results, self.name, self.render(json.loads(out.read_text())))
        common.say(f"wrote {out} and {results}")


def parser(description: str | None, name: str, *, seeds: bool = True) -> argparse.ArgumentParser:
    """The options that every script has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds:
        made.add_argument("--seeds", type=int, nargs="+", help="[0 1 2]")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder of the data files [data]")
    made.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="keeps what is finished")
    made.add_argument("--out", type=Path, help=f"[benchmarks/results/{name}.json]")
    made.add_argument("--results", type=Path, help="the Markdown file [benchmarks/RESULTS.md]")
    made.add_argument("--lanes", type=int, default=len(common.cores()), help="jobs at a time [as many as cores]")
    made.add_argument("--report-only", action="store_true", help="only render the JSON again")
    made.add_argument("--quick", action="store_true", help="a trial run; its numbers mean nothing")
    made.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    return made


def settle(args: argparse.Namespace, **quick_and_full: tuple[object, object]) -> argparse.Namespace:
    """Fill in what was not given: the quick or the full value of each named option."""
    args.lanes = min(args.lanes, len(common.cores()))
    if "seeds" in args:
        quick_and_full["seeds"] = (QUICK_SEEDS, [0, 1, 2])
    for name, (quick, full) in quick_and_full.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    return args

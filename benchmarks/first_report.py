"""How long a new user waits: from a finished install to the first report, step by step.

    python benchmarks/first_report.py         # what `make demo` does, a few minutes on two cores

The commands are those of the Makefile and of demo.sh, one process after the other in an empty folder, with an empty
cache, on all cores of the machine.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import common
from common import table
from pairs import Data
from script import Script, parser, settle

NAME = "first_report"
AIM_MINUTES = 10.0
COMMAND = [sys.executable, "-c", "import sys; from tune.cli import main; sys.exit(main())"]
QUICKER = {
    "search": ["--trials", "3", "stages.operator.epochs=4"],
    "promote": ["--top", "1", "--seeds", "2", "--force"],
}
"""command -> what is added to it in a trial run"""


def steps(root: Path = common.ROOT) -> list[list[str]]:
    """The commands of `make demo` as words after `ups`, in their order.

    Raises:
        AssertionError: the Makefile or demo.sh has other words than this script looks for.
    """
    lines = [(root / name).read_text().splitlines() for name in ("Makefile", "demo.sh")]
    generate = [line.partition("/ups ")[2].replace("$@", "data/demo.h5") for line in lines[0] if "ups data gen" in line]
    rest = [line.removeprefix("ups ") for line in lines[1] if line.startswith("ups ")]
    assert len(generate) == 1, generate
    found = [shlex.split(line) for line in [*generate, *rest]]
    assert [words[0] for words in found] == ["data", "search", "trials", "promote", "report"], found
    return found


def measure(args: argparse.Namespace, work: Path) -> Data:
    """Run every step; gives its words and its seconds.

    Raises:
        RuntimeError: one of them failed, or there is no report at the end.
    """
    machine = common.machine(1)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    taken = []
    for words in steps():
        whole = [*words, *(QUICKER.get(words[0], []) if args.quick else [])]
        common.say(f"ups {' '.join(whole)}")
        taken.append({"words": words, "seconds": run(whole, work)})
    pages = sorted(work.glob("runs/*/report.html"))
    if not pages:
        raise RuntimeError(f"{work}: all steps ended, and there is no report")
    answer = {"commit": common.commit(), "date": common.today()}
    return {"machine": machine, "steps": taken, "report_bytes": pages[0].stat().st_size, **answer}


def run(words: Sequence[str], folder: Path) -> float:
    """Seconds of one command in a process of its own.

    Raises:
        RuntimeError: it failed; its output is in log.txt.
    """
    environment = os.environ | {"UPS_CACHE": str(folder.absolute() / "cache"), "PYTHONPATH": str(common.ROOT)}
    start = time.perf_counter()
    with open(folder / "log.txt", "ab") as log:
        done = subprocess.run([*COMMAND, *words], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"ups {words[0]} ended with {done.returncode}, see {folder / 'log.txt'}")
    return time.perf_counter() - start


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    total = sum(step["seconds"] for step in data["steps"])
    rows = [[f"`ups {' '.join(step['words'])}`", f"{step['seconds']:.0f}"] for step in data["steps"]]
    machine = data["machine"]
    return "\n\n".join(
        [
            "## From a finished install to the first report",
            "The commands of `make demo`, one after the other in an empty folder with an empty cache, by the clock, "
            "with the start of each process.",
            table(["", "s"], [*rows, ["**together**", f"**{total:.0f}**"]]),
            f"The aim, at most {AIM_MINUTES:.0f} minutes on two cores, is "
            f"{'reached' if total <= 60 * AIM_MINUTES else 'missed'}: {total / 60:.1f} minutes. The report has "
            f"{data['report_bytes'] / 1e6:.1f} MB.",
            f"Measured on {machine['cpu']}, {machine['cores']} cores ({machine['physical_cores']} physical), torch "
            f"{machine['torch']}, Python {machine['python']}, {data['date']}, commit {data['commit']}.",
        ]
    )


def _no_work(request: Data, folder: Path) -> Data:
    raise AssertionError("this script has no jobs: a step has all cores")


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    return settle(parser(__doc__, NAME, seeds=False).parse_args(words))


def main() -> None:
    Script(NAME, measure, _no_work, render).run(_arguments())


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

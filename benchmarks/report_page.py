"""How long the page of a long search takes to be written, and to be seen in a browser.

    python benchmarks/report_page.py         # a minute or two

The search is the real one on recorded learning curves (`stage_table.py`), the page what `ups report` writes of it,
and the browser headless Chromium, which Debian's packages `chromium` and `chromium-driver` have. A page is seen when it
is loaded, laid out, and has been painted; each time it is loaded anew.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

import common
from common import table
from overhead_scale import SHORTEST_SECONDS
from pairs import Data
from recorded_landscape import Landscape
from replay_clock import Simulation
from replay_policies import StudyPolicy
from replay_table import Table
from script import Script, parser, settle
from stage_grid import OUT, read_table

from tune.checks import load_plan_from_space
from tune.report import write_report
from ups.core.errors import UserError

sys.path.append(str(common.ROOT / "tests" / "pages"))
from looking import Browser

NAME = "report_page"
AIM_SECONDS = 2.0
WORKERS, WIDTHS = 100, (1280, 400)
_SEEN = """
const done = arguments[arguments.length - 1]
requestAnimationFrame(() => requestAnimationFrame(() => {
    const load = performance.getEntriesByType('navigation')[0].loadEventEnd
    done([load / 1000, performance.now() / 1000])
}))
"""


def measure(args: argparse.Namespace, work: Path) -> Data:
    """
    Raises:
        UserError: there are no recorded curves.
    """
    if not args.table.is_file():
        raise UserError(f"{args.table}: no table of learning curves here; run benchmarks/stage_table.py first")
    work.mkdir(parents=True, exist_ok=True)
    page = work / "report.html"
    seconds, states = write(args.table, args.trials, page)
    return {
        "machine": common.machine(1),
        "trials": args.trials,
        "states": states,
        "write_seconds": seconds,
        "bytes": page.stat().st_size,
        "loads": {str(width): see(page, width, args.loads) for width in WIDTHS},
        "commit": common.commit(),
        "date": common.today(),
    }


def write(curves: Path, trials: int, page: Path) -> tuple[float, dict[str, int]]:
    """Search on recorded curves, and write the page of it: seconds of the latter, and how many trials ended how."""
    plan = load_plan_from_space(
        "burgers1d_small", changes={"strategy.trials": trials, "strategy.seed": 0, "resources.concurrency": WORKERS}
    )
    landscape = Landscape(plan.space, Table(read_table(curves), 0), shortest=SHORTEST_SECONDS)
    with StudyPolicy(plan, landscape.path_of, workers=WORKERS, reuse=True) as policy:
        found = Simulation(policy, landscape, workers=WORKERS, budget=inf, decision_seconds=lambda: 0.0).run()
        begin = time.perf_counter()
        write_report(policy.folder, page)
        return time.perf_counter() - begin, dict(found.trials)


def see(page: Path, width: int, loads: int) -> list[list[float]]:
    """Seconds from the wish to see a page until it was loaded, and until it was painted, of each load."""
    browser = Browser()
    try:
        browser.open(page, width)  # what the first page of a browser takes is no page's
        found = []
        for _ in range(loads):
            browser.driver.get("about:blank")
            browser.driver.get(page.resolve().as_uri())
            found.append(list(browser.driver.execute_async_script(_SEEN)))
        return found
    finally:
        browser.close()


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    rows, slowest = [], 0.0
    for width, loads in data["loads"].items():
        loaded, seen = ([each[place] for each in loads] for place in (0, 1))
        slowest = max(slowest, *seen)
        rows.append(
            [f"{width} pixels", *(f"{statistics.median(each):.2f}" for each in (loaded, seen)), f"{max(seen):.2f}"]
        )
    count, machine = len(next(iter(data["loads"].values()))), data["machine"]
    states = ", ".join(f"{number} {state}" for state, number in sorted(data["states"].items()))
    return "\n\n".join(
        [
            "## The page of a long search",
            f"`ups report` of {data['trials']:,} trials on recorded curves ({states}), in headless Chromium, {count} "
            f"loads at each width. Writing it took {data['write_seconds']:.0f} s; it has {data['bytes'] / 1e3:.0f} kB.",
            table(["s until it is", "loaded, median", "painted, median", "painted, most"], rows),
            f"The aim, {data['trials']:,} trials open within {AIM_SECONDS:.0f} s, is "
            f"{'reached' if slowest <= AIM_SECONDS else '**missed**'}.",
            f"Measured on {machine['cpu']}, {machine['cores']} cores ({machine['physical_cores']} physical), Python "
            f"{machine['python']}, {data['date']}, commit {data['commit']}.",
        ]
    )


def _no_work(request: Data, folder: Path) -> Data:
    raise AssertionError("this script has no jobs: a browser has all cores")


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME, seeds=False)
    made.add_argument("--table", type=Path, default=OUT, help=f"[{OUT}]")
    made.add_argument("--trials", type=int, help="[1000]")
    made.add_argument("--loads", type=int, help="of the page, at each width [5]")
    return settle(made.parse_args(words), trials=(40, 1000), loads=(2, 5))


def main() -> None:
    Script(NAME, measure, _no_work, render).run(_arguments())


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

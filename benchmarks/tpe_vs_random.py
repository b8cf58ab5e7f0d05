"""TPE against random search: the same space, the same number of trials, the project's own search, five seeds.

    python benchmarks/tpe_vs_random.py                   # search_spaces/demo.yaml as shipped
    python benchmarks/tpe_vs_random.py --report-only     # the section of RESULTS.md again, from the JSON

Every search runs alone on one core, one trial at a time, so that the order of its trials is fixed. Searches that
finished stay in the work folder and are not run again; one that was interrupted starts anew, because its wall time
is a result.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import common
from common import Job, spread, table
from scipy.stats import t as student

from tune.checks import load_plan_from_space
from tune.study import Plan
from ups.config import parse_overrides
from ups.core.errors import UserError

SAMPLERS = ("tpe", "random")
SHARES = (0.25, 0.5, 0.75, 1.0)
CONFIDENCE = 0.95

Data = dict[str, Any]
"""plain JSON"""


def main() -> None:
    args = _arguments()
    if args.job:
        common.answer(args.job, _search)
        return
    name = f"tpe_vs_random_{Path(args.space).stem}"
    out = args.out or Path("benchmarks/results") / f"{name}.json"
    if not args.report_only:
        common.write_json(out, _measure(args, args.work / name))
    if not out.is_file():
        raise UserError(f"{out}: no results here; run without --report-only first")
    found = json.loads(out.read_text())
    common.update_section(args.results, f"tpe_vs_random {found['protocol']['space']}", render(found))
    common.say(f"wrote {out} and {args.results}")


def best_so_far(trials: Sequence[Data], share: float) -> float | None:
    """The best validation score of a complete trial among the first `share` of them, in the order they were made."""
    first = sorted(trials, key=lambda trial: trial["number"])[: max(1, round(share * len(trials)))]
    scores = [trial["score"] for trial in first if trial["state"] == "COMPLETE" and trial["score"] is not None]
    return min(scores, default=None)


def paired_interval(gains: Sequence[float]) -> tuple[float, float]:
    """Student's interval of the mean of paired differences."""
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(gains) - 1)) * stdev(gains) / math.sqrt(len(gains))
    return fmean(gains) - half, fmean(gains) + half


def collect(protocol: Data, searches: Mapping[str, Mapping[int, Data]], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record, the comparison included."""
    samplers = {
        sampler: [
            {
                "seed": seed,
                **found,
                "best_so_far": {f"{share:g}": best_so_far(found["trials"], share) for share in SHARES},
            }
            for seed, found in by_seed.items()
        ]
        for sampler, by_seed in searches.items()
    }
    return {
        "benchmark": "tpe_vs_random",
        "protocol": protocol,
        "machine": machine,
        "samplers": samplers,
        "difference": _difference(samplers),
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p, machine, samplers = data["protocol"], data["machine"], data["samplers"]
    where = common.machine_words(machine, [each for found in samplers.values() for each in found])
    header = ["", *(f"best after {share:.0%} of the trials" for share in SHARES)]
    header += ["exploded, first half", "second half", "complete / pruned / diverged", "training time", "wall time"]
    rows = []
    for sampler in SAMPLERS:
        found = samplers[sampler]
        rows.append(
            [
                {"tpe": "**TPE**", "random": "random search"}[sampler],
                *(spread([each["best_so_far"][f"{share:g}"] for each in found]) for share in SHARES),
                *(_percent([each["explosion_rates"][half] for each in found]) for half in (0, 1)),
                " / ".join(f"{fmean(_count(each, kind) for each in found):.3g}" for kind in _KINDS),
                f"{fmean(sum(trial['seconds'] for trial in each['trials']) for each in found):.0f} s",
                f"{fmean(each['seconds'] for each in found):.0f} s",
            ]
        )
    parts = [
        f"## TPE and random search on the space `{p['space']}`",
        f"Best validation nRMSE found, mean ± standard deviation over {len(p['seeds'])} seeds of the search; "
        f"{p['trials']} trials each, the base config among them, scheduler {p['scheduler']}, "
        f"{p['startup_trials']} random trials before TPE begins. One core and one trial at a time for every search.",
        table(header, rows),
        _difference_words(data["difference"]),
        f"The base config, trial 0 of every search: {spread([_base(each) for each in samplers['tpe']])}.",
        f"Measured on {where}.",
        *_notes(samplers),
    ]
    return "\n\n".join(parts)


_KINDS = (("COMPLETE",), ("PRUNED",), ("EXPLODED", "NOT_FINITE"))


def _count(found: Data, states: Sequence[str]) -> int:
    return sum(trial["state"] in states for trial in found["trials"])


def _base(found: Data) -> float | None:
    return next((trial["score"] for trial in found["trials"] if trial["number"] == 0), None)


def _percent(rates: Sequence[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{fmean(known):.0%}" if known else "–"


def _difference(samplers: Mapping[str, Sequence[Data]]) -> Data | None:
    """Best score of random search minus that of TPE, seed by seed; None where a search found nothing."""
    ours, theirs = ({each["seed"]: each["best_so_far"]["1"] for each in samplers[name]} for name in SAMPLERS)
    seeds = [seed for seed in ours if ours[seed] is not None and theirs.get(seed) is not None]
    if len(seeds) < 2:
        return None
    gains = [theirs[seed] - ours[seed] for seed in seeds]
    low, high = paired_interval(gains)
    return {"seeds": seeds, "gains": gains, "mean": fmean(gains), "low": low, "high": high}


def _difference_words(found: Data | None) -> str:
    if found is None:
        return "Too few searches found anything to compare them."
    each = ", ".join(f"{gain:+.2g}" for gain in found["gains"])
    wins = sum(gain > 0 for gain in found["gains"])
    verdict = "excluding" if found["low"] > 0 or found["high"] < 0 else "including"
    return (
        f"Random search's best minus TPE's, seed by seed: {each}; mean {found['mean']:+.2g} "
        f"({CONFIDENCE:.0%} interval {found['low']:+.2g} to {found['high']:+.2g}, paired Student, {verdict} zero). "
        f"TPE is ahead on {wins} of {len(found['gains'])} seeds."
    )


def _notes(samplers: Mapping[str, Sequence[Data]]) -> Iterator[str]:
    for sampler, found in samplers.items():
        for each in found:
            if len(each["trials"]) < each["wanted"] or each["stop_reason"]:
                count = len(each["trials"])
                yield f"Note: {sampler}, seed {each['seed']} ended after {count} trials: {each['stop_reason']}."


def _measure(args: argparse.Namespace, work: Path) -> Data:
    machine = common.machine(args.lanes)
    plans = {(sampler, seed): _plan(args, sampler, seed) for seed in args.seeds for sampler in SAMPLERS}
    first = plans[SAMPLERS[0], args.seeds[0]]
    for file in first.base.task.files:
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file; `make demo` generates the data of the demo space")
    jobs = {
        (sampler, seed): Job(
            f"{sampler}, seed {seed}",
            work / f"{sampler}_seed{seed}",
            {
                "space": args.space,
                "overrides": args.override,
                "changes": _changes(args, sampler, seed),
                "search": plan.config.model_dump(mode="json"),
                "base": plan.base.model_dump(mode="json"),
                "machine": machine,
            },
        )
        for (sampler, seed), plan in plans.items()
    }
    common.run_jobs(Path(__file__), list(jobs.values()), args.lanes)
    searches: dict[str, dict[int, Data]] = {sampler: {} for sampler in SAMPLERS}
    for (sampler, seed), job in jobs.items():
        result = job.result()
        assert result is not None, job.name
        searches[sampler][seed] = result
    strategy = first.config.strategy
    protocol = {
        "space": Path(args.space).stem,
        "trials": strategy.trials,
        "scheduler": strategy.scheduler,
        "startup_trials": strategy.startup_trials,
        "seeds": args.seeds,
        "names": sorted(first.config.space),
    }
    return collect(protocol, searches, machine)


def _changes(args: argparse.Namespace, sampler: str, seed: int) -> Data:
    changes = {"strategy.sampler": sampler, "strategy.seed": seed, "resources.concurrency": 1}
    return changes | ({"strategy.trials": args.trials} if args.trials else {})


def _plan(args: argparse.Namespace, sampler: str, seed: int) -> Plan:
    return load_plan_from_space(args.space, parse_overrides(args.override), _changes(args, sampler, seed))


def _search(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    from tune.search import run_search  # imports Ray, which the parent has no use for

    plan = load_plan_from_space(request["space"], parse_overrides(request["overrides"]), request["changes"])
    shutil.rmtree(folder / "study", ignore_errors=True)
    summary = run_search(plan, folder / "study")
    if summary.signalled:
        raise SystemExit(130)
    return {
        "wanted": summary.wanted,
        "seconds": summary.seconds,
        "stop_reason": summary.stop_reason,
        "explosion_rates": list(summary.explosion_rates() or (None, None)),
        "trials": [
            {
                "number": record.number,
                "state": str(record.state),
                "score": record.score,
                "seconds": record.seconds,
                "origin": record.origin,
                "params": record.params,
                "reason": record.reason,
            }
            for record in summary.records
        ],
    }


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="demo", help="a SPACE file, or the bare name of a shipped one")
    parser.add_argument("--trials", type=int, help="of every search [the space's]")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the searches [0 1 2 3 4]")
    parser.add_argument("--override", nargs="*", default=[], metavar="path=value", help="values for the base config")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="keeps what is finished")
    parser.add_argument("--out", type=Path, help="[benchmarks/results/tpe_vs_random_SPACE.json]")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="the Markdown file")
    parser.add_argument("--lanes", type=int, default=len(common.cores()), help="searches at a time [as many as cores]")
    parser.add_argument("--report-only", action="store_true", help="only render the JSON again")
    parser.add_argument(
        "--quick", action="store_true", help="a trial run: two seeds, six trials; its numbers mean nothing"
    )
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    args.lanes = min(args.lanes, len(common.cores()))
    args.seeds = args.seeds or ([0, 1] if args.quick else [0, 1, 2, 3, 4])
    if args.quick:
        args.trials = args.trials or 6
        args.work = args.work / "quick"
        args.out = args.out or args.work / "tpe_vs_random.json"
        args.results = args.out.with_suffix(".md")
    return args


if __name__ == "__main__":
    sys.exit(common.exit_code(main))

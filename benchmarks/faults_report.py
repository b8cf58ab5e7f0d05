"""The section of RESULTS.md on faults."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import common
from common import table
from fault_cases import CASES
from fault_study import ROUNDING
from pairs import Data

AIM = 1.0
"""work that a trial may be cost each time that it is hit, in checkpoint intervals"""


def collect(protocol: Data, runs: Sequence[Data], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record."""
    cases = [summary_of(case.name, runs, protocol["interval"]) for case in CASES if _of(case.name, runs)]
    return {"benchmark": "faults", "protocol": protocol, "machine": machine, "runs": list(runs), "cases": cases}


def summary_of(name: str, runs: Sequence[Data], interval: int) -> Data:
    """What the runs of a case came to.

    Args:
        interval: steps between two checkpoints.
    """
    mine = _of(name, runs)
    losses = next(case.losses for case in CASES if case.name == name)
    repeated = max((steps for run in mine for steps in run["repeated"].values()), default=0) / interval
    return {
        "case": name,
        "runs": len(mine),
        "complete": sum(not run["wrong"] and run["code"] == 0 for run in mine),
        "lost": sum(run["trials"] - sum(run["states"].values()) for run in mine),
        "failed": sum(run["states"].get("FAILED", 0) for run in mine),
        "intervals": repeated,
        "reached": repeated <= losses * AIM,
        "seconds": median(run["seconds"] for run in mine),
        "most_seconds": max(run["seconds"] for run in mine),
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p, words = data["protocol"], {case.name: case.words for case in CASES}
    rows = [
        [
            words[each["case"]],
            str(each["runs"]),
            str(each["complete"]),
            str(each["lost"]),
            str(each["failed"]),
            f"{each['intervals']:.2f}",
            f"{each['seconds']:.1f} ({each['most_seconds']:.1f})",
        ]
        for each in data["cases"]
    ]
    header = ["fault", "runs", "complete", "trials lost", "FAILED", "work done twice", "seconds until trained on"]
    dear = [words[each["case"]] for each in data["cases"] if not each["reached"]]
    verdict = f"above it: {'; '.join(dear)}" if dear else "kept by every case"
    broken = [f"- {run['case']}: {line}" for run in data["runs"] for line in run["wrong"]]
    notes = sorted({f"{run['case']}: {run['note']}" for run in data["runs"] if run["note"]})
    parts = [
        "## Faults",
        "Each run is `ups search` of a small study with real training, into which one fault is made while a trial is "
        "in the midst of it. A run is complete when every trial has ended once, with the score, bit for bit, of the "
        "same config trained without a search (of two workers, which add up in another order: within "
        f"{ROUNDING:.0%}), and the search exits with 0. Work done twice is the most that any trial of any run trained "
        f"again, in checkpoint intervals ({p['interval']} steps). Seconds are the median, and the most, from the fault "
        "until the trial trained on; from the resume where a person says `--resume`; from the end of the refusal "
        "where storage refuses; from the arrival of the next node where the only one was lost (a worker looks for its "
        "raylet every 0.5 s here, by default every 5 s).",
        table(header, rows),
        f"Aim: at most {AIM:g} interval of work each time that a trial is hit; {verdict}.",
        *(["Not as without a fault:\n\n" + "\n".join(broken)] if broken else []),
        *(["Noted: " + "; ".join(notes) + "."] if notes else []),
        f"Measured on {common.machine_words(data['machine'], data['runs'])}; the processes of a search could use all "
        "cores.",
    ]
    return "\n\n".join(parts)


def _of(name: str, runs: Sequence[Data]) -> list[Data]:
    return [run for run in runs if run["case"] == name]

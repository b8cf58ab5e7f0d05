"""From replayed searches to their JSON, and from that to the section of RESULTS.md.

A search is compared by the core-seconds after which it first had a score. One that never had it within the budget is
censored: its time counts as the budget, so that a mean is restricted to the budget and a ratio in which the baseline is
censored is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from common import machine_words, number, table
from pairs import Data

WORDS = {
    "ray": "Ray Tune, documented defaults",
    "ray tuned": "Ray Tune, tuned",
    "ours": "ours: stage tree, milestone ASHA, reuse",
    "ours, TPE": "ours with TPE in place of the stage tree",
    "ours, no reuse": "ours with TPE and without reuse",
    "random": "random search",
}
BASELINES = ("ray tuned", "ray")
WITHIN = (0.05, 0.02, 0.01)
"""of the best score of the table"""
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""of the budget, for the curves"""
AIM = 3.0
_DRAWS = 4000
_CONFIDENCE = 0.95

Answers = Mapping[tuple[str, int, int], Data]
"""(strategy, workers, seed of the table) -> its searches, by seed of the search"""


def time_to(improvements: Sequence[Sequence[float]], target: float) -> float | None:
    """Core-seconds after which a search first had `target` or better; None if never."""
    return next((seconds for seconds, score in improvements if score <= target), None)


Times = Sequence[Sequence[float | None]]
"""core-seconds for each table and each seed of the search; None for never"""


def restricted_ratio(theirs: Times, ours: Times, budget: float, *, paired: bool) -> Data:
    """Their mean time over ours, both restricted to the budget, with a bootstrap interval over seeds of the search.

    Args:
        paired: a seed's two times belong together, because one sets the target of the other.
    """
    random = np.random.default_rng(0)
    known = [[np.array([budget if each is None else each for each in row]) for row in side] for side in (theirs, ours)]
    ratios = []
    for _ in range(_DRAWS):
        sums = [0.0, 0.0]
        for their_row, our_row in zip(*known, strict=True):
            first = random.integers(len(their_row), size=len(their_row))
            second = first if paired else random.integers(len(our_row), size=len(our_row))
            sums[0] += float(their_row[first].mean())
            sums[1] += float(our_row[second].mean())
        ratios.append(sums[0] / sums[1])
    edges = np.quantile(ratios, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    means = [fmean(float(row.mean()) for row in side) for side in known]
    medians = [_median([each for row in side for each in row]) for side in (theirs, ours)]
    return {
        "ratio": means[0] / means[1],
        "low": float(edges[0]),
        "high": float(edges[1]),
        "means": means,
        "medians": medians,
        "ratio_of_medians": None if medians[0] is None or medians[1] is None else medians[0] / medians[1],
        "censored": [sum(each is None for row in side for each in row) for side in (theirs, ours)],
        "searches": sum(map(len, ours)),
    }


def collect(protocol: Data, answers: Answers, tried: Mapping[tuple[float, int, int], Data], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record, comparisons included.

    Args:
        tried: (grace, factor, seed of the table) -> searches of the tuned baseline with other settings of ASHA.
    """
    bests = {int(seed): each["best"] for seed, each in protocol["tables"].items()}
    budget, strategies = protocol["budget"], list(dict.fromkeys(strategy for strategy, _, _ in answers))
    comparisons = []
    for workers in (protocol["workers"], *protocol["other_workers"]):
        here = {strategy for strategy, count, _ in answers if count == workers}
        for baseline in (each for each in BASELINES if each in here):
            for strategy in (each for each in strategies if each in here and each != baseline):
                comparisons += _compared(answers, bests, budget, baseline, strategy, workers)
    first = protocol["workers"]
    return {
        "benchmark": "search_cost",
        "protocol": protocol,
        "machine": machine,
        "comparisons": comparisons,
        "tried": [
            {
                **{"grace": grace, "factor": factor},
                **{
                    f"{within:g}": fmean(
                        time_to(each["improvements"], (1 + within) * best) or budget
                        for seed, best in bests.items()
                        for each in tried[grace, factor, seed]["searches"]
                    )
                    for within in WITHIN
                },
            }
            for grace, factor in dict.fromkeys((grace, factor) for grace, factor, _ in tried)
        ],
        "strategies": {
            strategy: _summary([answers[strategy, first, seed] for seed in bests], list(bests.values()), budget)
            for strategy in strategies
        },
        "jobs": [{"date": each["date"], "commit": each["commit"]} for each in answers.values()],
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p = data["protocol"]
    levels, tables = p["levels"], list(p["tables"].values())
    seconds = tables[0]["stage_seconds"]
    shape = " x ".join(f"{count} {_STAGES[stage]}" for stage, count in levels.items())
    costs = ", ".join(f"{_STAGES_ONE[stage]} {value:.2g} s" for stage, value in seconds.items())
    parts = [
        "## What a search costs, against Ray Tune with OptunaSearch and ASHA",
        f"Searches replayed on a table of real learning curves: {shape}, {len(tables)} seeds, every combination "
        f"trained once with this project's trainer (`stage_table.py`). The decisions are made by the real code of "
        f"both sides on a simulated clock; a stage costs the CPU seconds that it took on one core (on average, of one "
        f"that completed: {costs}; a whole trial {p['full_run_seconds']:.3g} s). {p['workers']} workers, a budget of "
        f"{p['budget']:,} core-seconds ({p['full_runs']:g} whole trials) with the time of idle workers in it, "
        f"{len(p['seeds'])} seeds of the search on each table. The score is the validation error at the end of a "
        "complete trial.",
        *(_table_words(seed, each) for seed, each in p["tables"].items()),
        "Ray Tune, documented defaults: `OptunaSearch()` and `ASHAScheduler()` as they are, a report at each "
        "validation; a trial that explodes raises. Tuned: reused actors, a concurrency limit, explosions reported as a "
        f"bad score, ASHA over the share of the whole trial with grace {p['tuned']['grace_period']:g} % and factor "
        f"{p['tuned']['reduction_factor']:g}, the base config as its first trial, like ours. The start of actors, 2 to "
        "3 s a trial where they are not reused, is charged to nobody.",
        "Core-seconds until a search had the score that the baseline with the same seed ended with, the baseline's own "
        f"over the other's; means restricted to the budget, {_CONFIDENCE:.0%} bootstrap interval over seeds:",
        _same_score_table(data),
        *_verdicts(data),
        "Core-seconds until a search was within some percent of the best run of its table. A search that was not is "
        "counted with the budget; `never` says how many of the baseline's and of the other's were not:",
        _target_table(data),
        "How ASHA was set for the tuned baseline: core-seconds until within some percent of the best run, means "
        f"restricted to the budget, {len(p['tried_seeds'])} seeds of their own on each table. It was tuned on the "
        "tables that it is compared on; so was ours developed on them, and a defect of the stage tree that this very "
        "comparison showed was mended. Neither side has been compared on a table that it had not seen.",
        _tried_table(data),
        "How far the best score so far is above the best of the table, median over searches, after a share of the "
        "budget:",
        _curve_table(data),
        "What the searches did, means over them. A search ends when it has found the best run of its table. Diverged: "
        "share of the trials that exploded or stalled, in the first and in the second half of a search.",
        _work_table(data),
        f"Measured on {machine_words(data['machine'], data['jobs'])}.",
    ]
    return "\n\n".join(parts)


_STAGES = {
    "operator": "operators",
    "diff_residual": "diffusions",
    "consistency_distill": "students",
    "inference": "searches at test time",
}
_STAGES_ONE = {
    "operator": "operator",
    "diff_residual": "diffusion",
    "consistency_distill": "student",
    "inference": "search at test time",
    "latents": "latents of an operator",
}


def _compared(
    answers: Answers, bests: Mapping[int, float], budget: float, baseline: str, strategy: str, workers: int
) -> list[Data]:
    theirs = [answers[baseline, workers, seed]["searches"] for seed in bests]
    ours = [answers[strategy, workers, seed]["searches"] for seed in bests]
    about = {"baseline": baseline, "strategy": strategy, "workers": workers}
    # the score that the baseline ended with; a baseline that completed nothing sets no target
    targets = [[each["improvements"][-1][1] if each["improvements"] else math.inf for each in row] for row in theirs]
    same = restricted_ratio(_times(theirs, targets), _times(ours, targets), budget, paired=True)
    found = [{**about, "target": "same", **same}]
    for within in WITHIN:
        fixed = [[(1 + within) * best] * len(row) for best, row in zip(bests.values(), theirs, strict=True)]
        ratio = restricted_ratio(_times(theirs, fixed), _times(ours, fixed), budget, paired=False)
        found.append({**about, "target": within, **ratio})
    return found


def _times(rows: Sequence[Sequence[Data]], targets: Sequence[Sequence[float]]) -> list[list[float | None]]:
    return [
        [time_to(each["improvements"], target) for each, target in zip(row, goals, strict=True)]
        for row, goals in zip(rows, targets, strict=True)
    ]


def _summary(answers: Sequence[Data], bests: Sequence[float], budget: float) -> Data:
    searches = [each for answer in answers for each in answer["searches"]]
    excess: dict[str, list[float]] = {}
    for share in SHARES:
        reached = [
            (_best_at(each["improvements"], share * budget), best)
            for answer, best in zip(answers, bests, strict=True)
            for each in answer["searches"]
        ]
        values = sorted(math.inf if score is None else score / best - 1 for score, best in reached)
        excess[f"{share:g}"] = [values[round(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75)]
    trials = [sum(each["trials"].values()) for each in searches]
    return {
        "excess": {key: [value if math.isfinite(value) else None for value in each] for key, each in excess.items()},
        "trials": fmean(trials),
        "complete": fmean(each["trials"].get("COMPLETE", 0) for each in searches),
        "pruned": fmean(each["trials"].get("PRUNED", 0) for each in searches),
        "core_seconds": fmean(each["core_seconds"] for each in searches),
        "idle": sum(each["idle_seconds"] for each in searches) / sum(each["core_seconds"] for each in searches),
        "diverged": [_mean_of_half(searches, half) for half in (0, 1)],
        "decision_ms": 1e3 * sum(each["decision_seconds"] for each in searches) / sum(trials),
        "searches": [
            {name: each[name] for name in ("improvements", "trials", "core_seconds", "trained")} for each in searches
        ],
    }  # fmt: skip


def _mean_of_half(searches: Sequence[Data], half: int) -> float | None:
    shares = [each["diverged"][half] for each in searches if len(each["diverged"]) == 2]
    return fmean(shares) if shares else None


def _best_at(improvements: Sequence[Sequence[float]], seconds: float) -> float | None:
    return min((score for at, score in improvements if at <= seconds), default=None)


def _median(values: Sequence[float | None]) -> float | None:
    middle = median(math.inf if each is None else each for each in values)
    return middle if math.isfinite(middle) else None


def _table_words(seed: str, facts: Data) -> str:
    counts = facts["counts"]["operator"]
    bad = ", ".join(f"{count} {status}" for status, count in counts.items() if status != "COMPLETE") or "none"
    return (
        f"Table of seed {seed}: best {number(facts['best'])}, median {number(facts['median'])}, "
        f"{facts['within_1_percent']} of {facts['complete']} complete runs within 1 % of the best; operators that "
        f"failed: {bad}."
    )


def _interval(each: Data) -> list[str]:
    bound = "≥ " if each["censored"][0] and not each["censored"][1] else ""
    return [f"{bound}**{each['ratio']:.3g}**", f"{each['low']:.3g} to {each['high']:.3g}"]


def _same_score_table(data: Data) -> str:
    rows = []
    for each in data["comparisons"]:
        if each["target"] == "same":
            medians = [number(value) if value is not None else "–" for value in each["medians"]]
            rows.append([
                f"{WORDS[each['baseline']]} / {WORDS[each['strategy']]}", str(each["workers"]),
                *(f"{value:,.0f}" for value in each["means"]), *_interval(each), " / ".join(medians),
                f"{each['censored'][1]} of {each['searches']}",
            ])  # fmt: skip
    header = ["baseline / other", "workers", "baseline, s", "other, s", "ratio", "interval", "medians, s", "never"]
    return table(header, rows)


def _target_table(data: Data) -> str:
    rows = []
    for each in data["comparisons"]:
        if each["target"] != "same" and each["workers"] == data["protocol"]["workers"]:
            rows.append([
                f"{WORDS[each['baseline']]} / {WORDS[each['strategy']]}", f"{each['target']:.0%}",
                *(f"{value:,.0f}" for value in each["means"]), *_interval(each),
                f"{each['censored'][0]} and {each['censored'][1]} of {each['searches']}",
            ])  # fmt: skip
    return table(["baseline / other", "within", "baseline, s", "other, s", "ratio", "interval", "never"], rows)


def _tried_table(data: Data) -> str:
    rows = [
        [f"{each['grace']:g} %", str(each["factor"]), *(f"{each[f'{within:g}']:,.0f}" for within in WITHIN)]
        for each in data["tried"]
    ]
    return table(["grace", "factor", *(f"{within:.0%}" for within in WITHIN)], rows)


def _curve_table(data: Data) -> str:
    budget = data["protocol"]["budget"]
    header = ["", *(f"{share * budget:,.0f} s" for share in SHARES)]
    rows = [
        [WORDS[strategy], *(_percent(found["excess"][f"{share:g}"][1]) for share in SHARES)]
        for strategy, found in data["strategies"].items()
    ]
    return table(header, rows)


def _work_table(data: Data) -> str:
    rows = [
        [
            WORDS[strategy], *(f"{found[name]:.0f}" for name in ("trials", "complete", "pruned", "core_seconds")),
            _percent(found["idle"]), " / ".join(map(_percent, found["diverged"])), f"{found['decision_ms']:.0f} ms",
        ]
        for strategy, found in data["strategies"].items()
    ]  # fmt: skip
    header = ["", "trials", "complete", "pruned", "core-seconds", "idle", "diverged", "decision time a trial"]
    return table(header, rows)


def _verdicts(data: Data) -> list[str]:
    lines = []
    for each in data["comparisons"]:
        of_interest = each["strategy"] == "ours" and each["workers"] == data["protocol"]["workers"]
        if each["target"] == "same" and of_interest:
            reached = "reached" if each["ratio"] >= AIM else "missed"
            lines.append(
                f"Against {WORDS[each['baseline']]}: {each['ratio']:.3g} times fewer core-seconds for the same score; "
                f"the aim, {AIM:g}, is {reached}."
            )
    return lines


def _percent(value: Any) -> str:
    return "–" if value is None else f"{value:.1%}"

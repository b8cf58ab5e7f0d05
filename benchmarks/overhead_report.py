"""The section of RESULTS.md on what the search itself costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import common
from common import number, table
from overhead_ray import BARE, PARTS, SAMPLERS
from overhead_scale import KINDS
from pairs import Data

RATIO, START_SECONDS, GROWTH_BYTES, DECISION_SECONDS, IDLE = 1.2, 0.5, 50e3, 0.05, 0.05
"""the aims: at most so much"""
_JOBS = ("nothing", "start", "scale", "memory")


def collect(protocol: Data, answers: Mapping[str, Data], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record, with what is aimed at.

    Args:
        answers: of the jobs `nothing`, `start`, `scale` and `memory`.
    """
    starts = [each["total"] for each in answers["start"]["starts"]]
    ratios = {sampler: _ratios(answers["nothing"]["searches"], sampler) for sampler in SAMPLERS}
    aims = {
        **{f"ratio {sampler}": (median(found), RATIO) for sampler, found in ratios.items()},
        "start, median": (median(starts), START_SECONDS),
        "growth, resident": (answers["scale"]["growth_bytes"], GROWTH_BYTES),
        "growth, traced": (answers["memory"]["growth_bytes"], GROWTH_BYTES),
        "decision, mean": (answers["scale"]["decision"]["mean"], DECISION_SECONDS),
        "decision, last tenth": (answers["scale"]["decision"]["last"], DECISION_SECONDS),
        "idle": (answers["scale"]["idle_until_last_new"], IDLE),
    }
    return {
        "benchmark": "search_overhead",
        "protocol": protocol,
        "machine": machine,
        **{job: answers[job] for job in _JOBS},
        "ratios": ratios,
        "ratios_between_ends": {
            sampler: _ratios(answers["nothing"]["searches"], sampler, "between_ends") for sampler in SAMPLERS
        },
        "aims": {name: {"found": found, "aim": aim, "reached": found <= aim} for name, (found, aim) in aims.items()},
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    parts = [
        "## What the search itself costs",
        *_nothing(data),
        *_start(data),
        *_scale(data),
        *_memory(data),
        f"Measured on {common.machine_words(data['machine'], [data[job] for job in _JOBS])}. The searches of nothing "
        "and the starts could use all cores.",
        *common.starved_note([data["scale"]["cpu_share"]]),
    ]
    return "\n\n".join(parts)


def _nothing(data: Data) -> list[str]:
    found, ratios, between = data["nothing"], data["ratios"], data["ratios_between_ends"]
    words = {
        BARE: "Ray Tune, OptunaSearch with TPE",
        "tpe": "`ups search`, tpe",
        "stage_tree": "`ups search`, stage_tree",
    }
    rows = []
    for kind, name in words.items():
        searches = [each for each in found["searches"] if each["kind"] == kind]
        ratio = _range(ratios[kind], "{:.2f}") if kind in ratios else "1"
        rows.append([
            *(name, f"{median(each['seconds'] for each in searches):.1f}", ratio),
            f"{median(each['to_first_end'] for each in searches):.1f}",
            f"{1e3 * median(each['between_ends'] for each in searches):.1f}",
            _range(between[kind], "{:.2f}") if kind in between else "1",
            f"{median(each['bytes_a_trial'] for each in searches) / 1e3:.3g}",
        ])  # fmt: skip
    return [
        "### Trials that do nothing",
        f"{found['trials']} trials at a concurrency of {found['concurrency']} on the space `demo`, one search after "
        "the other in one Ray, which is started before; reused actors and the same settings of TPE. A search begins "
        "with the start of its workers, which in the project's own import torch. Ratio: of the same round, median "
        f"(least to most of {len(ratios[SAMPLERS[0]])} rounds).",
        table(
            [
                *("", "s, median", "ratio", "s to the end of the first trial", "ms a trial after it", "ratio"),
                "kB of the driver a trial",
            ],
            rows,
        ),
        _aims(data, *(f"ratio {sampler}" for sampler in SAMPLERS)),
    ]


def _start(data: Data) -> list[str]:
    starts = data["start"]["starts"]
    words = {"tune": "Ray Tune", "data": "data", "build": "building", "step": "first step"}
    shares = ", ".join(f"{words[part]} {1e3 * median(each[part] for each in starts):.0f}" for part in PARTS)
    totals = [each["total"] for each in starts]
    return [
        "### From a trial to its first step",
        f"Real training of `configs/demo.yaml` in a worker that has run a trial before, from the driver's handing out "
        f"to the first training step: median **{1e3 * median(totals):.0f} ms**, at most {1e3 * max(totals):.0f} ms, "
        f"{len(totals)} starts. Medians of its parts in ms: {shares}.",
        _aims(data, "start, median"),
    ]


def _scale(data: Data) -> list[str]:
    found, decision = data["scale"], data["scale"]["decision"]
    rows = []
    for kind in KINDS:
        each = found["calls"][kind]
        rows.append([kind, str(each["calls"]), *(f"{1e3 * each[what]:.2f}" for what in ("mean", "p95", "max"))])
    trained = ", ".join(f"{stage} {count}" for stage, count in found["trained"].items())
    return [
        "### A thousand workers",
        f"{found['workers']} workers, {found['trials']} trials on the space `burgers1d_small`, sampler stage_tree; "
        "recorded learning curves, stretched so that the first stage of a run takes at least "
        f"{data['protocol']['shortest_seconds']:.0f} s. The clock is simulated, the decisions are real: while the one "
        "driver decides, the clock goes on by its CPU time, and whoever needs a decision waits. Decisions "
        f"of a trial: mean **{1e3 * decision['mean']:.1f} ms**, 95 % below {1e3 * decision['p95']:.1f} ms, mean of "
        f"the last tenth of the trials {1e3 * decision['last']:.1f} ms. Workers were idle for "
        f"**{found['idle_until_last_new']:.1%}** of their time until the last trial was proposed "
        f"({found['idle']:.1%} with the end, when no more trials are wanted); the driver decided for "
        f"{found['busy_with_decisions']:.0%} of the time.",
        table(["ms a call", "calls", "mean", "p95", "max"], rows),
        f"Stages trained to their end: {trained}; simulated time {found['clock_seconds']:.0f} s.",
        _aims(data, "decision, mean", "decision, last tenth", "idle"),
    ]


def _memory(data: Data) -> list[str]:
    scale, traced = data["scale"], data["memory"]
    return [
        "### Memory of the driver",
        f"Growth for each trial, simulated trials without Ray: {scale['growth_bytes'] / 1e3:.3g} kB of resident "
        f"memory over {scale['trials']} trials, {traced['growth_bytes'] / 1e3:.3g} kB of Python's objects over "
        f"{traced['trials']} (slope of least squares).",
        _aims(data, "growth, resident", "growth, traced"),
    ]


def _aims(data: Data, *names: str) -> str:
    ms, kilobytes, percent = (1e3, " ms"), (1e-3, " kB"), (100.0, " %")
    units = {"ratio": (1.0, ""), "start": ms, "growth": kilobytes, "decision": ms, "idle": percent}
    said = []
    for name in names:
        each = data["aims"][name]
        factor, unit = units[name.split(",")[0].split()[0]]
        verdict = "reached" if each["reached"] else "missed"
        said.append(f"{name} {number(factor * each['found'])}{unit} of {number(factor * each['aim'])}{unit}: {verdict}")
    return f"Aims (at most): {'; '.join(said)}."


def _ratios(searches: Sequence[Data], sampler: str, what: str = "seconds") -> list[float]:
    seconds = {(each["round"], each["kind"]): each[what] for each in searches}
    return [value / seconds[place, BARE] for (place, kind), value in sorted(seconds.items()) if kind == sampler]


def _range(values: Sequence[float], form: str) -> str:
    return f"{form.format(median(values))} ({form.format(min(values))} to {form.format(max(values))})"

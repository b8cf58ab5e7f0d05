"""From the runs of nu_table.py to its JSON, and from that to its section of RESULTS.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common import finite, machine_words, number, spread, starved_note, table
from pairs import Data, compared, infinite, mean_error, pair_table
from peers import WORDS

SHOWN = {"reencode": "40 from one", "from_tenth": "31 from the tenth"}
PUBLISHED: dict[str, dict[str, float]] = {
    "FNO, published, full data": {"0.001": 0.029, "0.01": 0.0078, "0.1": 0.0029},
    "FNO, audited retraining, full data": {"0.001": 0.0108, "0.01": 0.0042, "0.1": 0.0014},
}
"""nRMSE over 31 frames after ten given ones, at PDEBench's resolution and size: another protocol, as published"""
FINER_AIM = 1.5


def collect(
    protocol: Data,
    tuned: Mapping[str, Mapping[float, Data]],
    rates: Mapping[str, float],
    runs: Sequence[Data],
    references: Mapping[str, Data],
    machine: Data,
) -> Data:
    """Everything that was measured as one JSON-able record, comparisons included."""
    tuning = {
        model: {
            "rate": rates[model],
            "tried": [{"rate": rate, "score": one["score"], "status": one["status"]} for rate, one in found.items()],
        }
        for model, found in tuned.items()
    }
    return {
        "benchmark": "nu_table",
        "protocol": protocol,
        "machine": machine,
        "tuning": tuning,
        "runs": list(runs),
        "references": dict(references),
        "published": PUBLISHED,
        "comparisons": list(_comparisons(protocol, runs)),
        "finer": list(_finer(protocol, runs)),
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p = data["protocol"]
    parts = [
        "## UPS, FNO and U-Net at three viscosities, equal wall time",
        _words(p),
        _error_table(data),
        "What it costs, at all viscosities: steps are training steps a second, memory is the peak of the whole "
        "process (resident set, with the libraries), milliseconds those of a 40-frame rollout per trajectory.",
        _cost_table(data),
        "UPS against each peer, paired over seeds and test trajectories: a ratio below 1 says that UPS is better. The "
        "typical ratio is the geometric mean over trajectories. Intervals by two-way resampling; with few seeds a "
        "verdict also needs all of them to agree.",
        pair_table(
            ["peer", "nu", "frames"],
            [([WORDS[each["peer"]], each["nu"], SHOWN[each["protocol"]]], each) for each in _pairs(data)],
        ),
        f"Learning rates: validation nRMSE after {p['tune_seconds']:g} s at nu = {p['tune_nu']:g} on seed "
        f"{p['tuning_seed']}; the chosen one, in bold, is used at every viscosity.",
        _tuning_table(data),
        *_finer_parts(data),
        f"Measured on {machine_words(data['machine'], data['runs'])}.",
        *_notes(data),
    ]
    return "\n\n".join(parts)


def _words(p: Data) -> str:
    return (
        f"nRMSE on {p['test']} test trajectories ({p['train']} train, {p['validation']} validate), {p['cells']} cells, "
        f"{p['frames']} frames of {p['dt']:g}, as deployed (re-encoded): 40 frames from one given frame, and "
        "PDEBench's 31 frames after ten, of which these models see the tenth. Mean over trajectories, ± standard "
        f"deviation over seeds {', '.join(map(str, p['seeds']))}. Every run trains {p['seconds']:g} s on one core, its "
        f"{p['validations']} validations included, in the same loop with the same losses, augmentation, rollout "
        "curriculum, batches and schedule. The published rows come from ten given frames, ten times the trajectories, "
        "and hours on a GPU: another protocol, quoted for orientation."
    )


def _error_table(data: Data) -> str:
    nus = [f"{nu:g}" for nu in data["protocol"]["nus"]]
    header = ["model", *(f"nu {nu}, {words}" for nu in nus for words in SHOWN.values())]
    rows = []
    for model in data["protocol"]["models"]:
        name = f"**{WORDS[model]}**" if model.startswith("ups") else WORDS[model]
        cells = [_cell(_complete(data, model, nu), protocol) for nu in nus for protocol in SHOWN]
        rows.append([name, *cells])
    for name in data["references"][nus[0]]:
        found = [data["references"][nu][name] for nu in nus]
        rows.append([name, *(_cell([each], protocol) for each in found for protocol in SHOWN)])
    for name, values in data["published"].items():
        cells = [number(values.get(nu)) if protocol == "from_tenth" else "–" for nu in nus for protocol in SHOWN]
        rows.append([f"*{name}*", *cells])
    return table(header, rows)


def _cost_table(data: Data) -> str:
    rows = []
    for model in data["protocol"]["models"]:
        runs = [run for nu in data["protocol"]["nus"] for run in _complete(data, model, f"{nu:g}")]
        rows.append(
            [
                WORDS[model],
                f"{runs[0]['parameters']:,}" if runs else "–",
                spread([run["steps"] / run["seconds"] for run in runs]),
                spread([run["peak_gib"] for run in runs]),
                spread([run["ms_per_trajectory"] for run in runs]),
            ]
        )
    return table(["model", "parameters", "steps/s", "memory, GiB", "ms/trajectory"], rows)


def _tuning_table(data: Data) -> str:
    rows = []
    for model, found in data["tuning"].items():
        cells = []
        for each in found["tried"]:
            words = number(each["score"]) if each["status"] == "COMPLETE" else each["status"]
            cells.append(f"**{words}**" if each["rate"] == found["rate"] else words)
        rows.append([WORDS[model], *cells])
    return table(["model", *(f"{rate:g}" for rate in data["protocol"]["rates"])], rows)


def _finer_parts(data: Data) -> Iterator[str]:
    if not data["finer"]:
        return
    p = data["protocol"]
    yield f"### Finer grids, nu = {p['tune_nu']:g}"
    yield (
        f"Trained at {p['cells']} cells, evaluated without further training on the same test trajectories at more "
        f"cells (40 frames from one). The aim is an error of at most {FINER_AIM:g} times that at {p['cells']} cells; "
        "the typical ratio is the geometric mean over trajectories."
    )
    rows = [
        [
            WORDS[each["model"]],
            str(each["cells"]),
            spread(infinite(each["means"])),
            number(*infinite([each["ratio_of_means"]])),
            "–"
            if each["low"] is None
            else f"{number(each['typical'])} ({number(each['low'])} to {number(each['high'])})",
            each["verdict"],
        ]
        for each in data["finer"]
    ]
    yield table(["model", "cells", "nRMSE", "ratio of means", "typical ratio (95 %)", "aim"], rows)


def _notes(data: Data) -> Iterator[str]:
    """What a reader must know before trusting the tables."""
    rates = data["protocol"]["rates"]
    edge = [WORDS[model] for model, found in data["tuning"].items() if found["rate"] in (min(rates), max(rates))]
    if edge and len(rates) > 1:
        yield f"Note: the chosen rate lies at an end of the grid for {', '.join(edge)}."
    for run in data["runs"]:
        if run["status"] != "COMPLETE":
            where = f"{WORDS[run['model']]}, nu {run['nu']:g}, seed {run['seed']}"
            yield f"Note: {where} is left out, {run['status']}: {run['reason']}."
    yield from starved_note([run["core_share"] for run in data["runs"]])


def _comparisons(protocol: Data, runs: Sequence[Data]) -> Iterator[Data]:
    """UPS against every peer, at every viscosity, under both protocols."""
    for nu in protocol["nus"]:
        for peer in (model for model in protocol["models"] if not model.startswith("ups")):
            for shown in SHOWN:
                ours, theirs = (_errors(runs, model, nu, shown) for model in ("ups", peer))
                found = compared(ours, theirs, ("UPS", WORDS[peer]))
                if found:
                    yield {"nu": f"{nu:g}", "peer": peer, "protocol": shown, **found}


def _finer(protocol: Data, runs: Sequence[Data]) -> Iterator[Data]:
    """The error on each finer grid beside that on the trained one."""
    nu = protocol["tune_nu"]
    for model in dict.fromkeys(run["model"] for run in runs if run.get("finer")):
        there = {run["seed"]: run for run in runs if run["model"] == model and run["nu"] == nu and run.get("finer")}
        trained = {seed: run["errors"]["reencode"] for seed, run in there.items()}
        base = [mean_error(each) for each in trained.values()]
        yield _finer_row(model, protocol["cells"], base, 1.0, None, "–")
        for cells in sorted({int(cells) for run in there.values() for cells in run["finer"]}):
            errors = {seed: run["finer"][str(cells)] for seed, run in there.items()}
            means = [mean_error(each) for each in errors.values()]
            ratio = sum(means) / sum(base) if math.isfinite(sum(base)) else math.inf
            verdict = "reached" if ratio <= FINER_AIM else "missed"
            yield _finer_row(model, cells, means, ratio, compared(errors, trained, ("finer", "trained")), verdict)


def _interval(each: Data) -> str:
    if each["low"] is None:
        return "–"
    return f"{number(each['typical'])} ({number(each['low'])} to {number(each['high'])})"


def _finer_row(model: str, cells: int, means: Sequence[float], ratio: float, pair: Data | None, verdict: str) -> Data:
    bounds = {"typical": pair["typical_ratio"], "low": pair["low"], "high": pair["high"]} if pair else {}
    return {
        "model": model,
        "cells": cells,
        "means": [finite(mean) for mean in means],
        "ratio_of_means": finite(ratio),
        **{name: bounds.get(name) for name in ("typical", "low", "high")},
        "verdict": verdict,
    }


def _pairs(data: Data) -> list[Data]:
    """By peer, so that a reader sees one model over all viscosities."""
    order = data["protocol"]["models"]
    return sorted(data["comparisons"], key=lambda each: order.index(each["peer"]))


def _errors(runs: Sequence[Data], model: str, nu: float, protocol: str) -> dict[int, Sequence[float | None]]:
    return {
        run["seed"]: run["errors"][protocol]
        for run in runs
        if run["model"] == model and run["nu"] == nu and run["status"] == "COMPLETE"
    }


def _complete(data: Data, model: str, nu: str) -> list[Data]:
    return [
        run for run in data["runs"] if run["model"] == model and f"{run['nu']:g}" == nu and run["status"] == "COMPLETE"
    ]


def _cell(runs: Sequence[Mapping[str, Any]], protocol: str) -> str:
    return spread([mean_error(run["errors"][protocol]) for run in runs if protocol in run["errors"]])

"""From the runs of ups_vs_fno.py to its JSON, and from that to its section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median

from common import machine_words, number, spread, starved_note, table
from pairs import PROTOCOLS, Data, compared, infinite, mean_error, pair_table
from peers import WORDS

TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "0.01": {
        "one_step": (0.005, 0.0015),
        "reencode": (0.05, 0.010),
        "latent": (0.15, 0.05),
        "from_tenth": (0.02, 0.005),
    },
    "0.001": {"reencode": (0.10, 0.05)},
}
"""nu -> protocol -> nRMSE that counts as a pass, and as excellent"""


def collect(
    protocol: Data,
    tuned: Mapping[str, Mapping[float, Data]],
    rates: Mapping[str, float],
    runs: Mapping[str, Mapping[int, Data]],
    references: Mapping[str, Data],
    machine: Data,
) -> Data:
    """Everything that was measured as one JSON-able record, comparisons included."""
    models = {
        model: {
            "tuning": [
                {"rate": rate, "score": found["score"], "status": found["status"], "reason": found["reason"]}
                for rate, found in tuned[model].items()
            ],
            "rate": rates[model],
            "runs": [{"seed": seed, **found} for seed, found in runs[model].items()],
        }
        for model in runs
    }
    return {
        "benchmark": "ups_vs_fno",
        "protocol": protocol,
        "machine": machine,
        "models": models,
        "references": dict(references),
        "comparisons": list(_comparisons(models)),
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    protocol, machine = data["protocol"], data["machine"]
    where = machine_words(machine, [run for found in data["models"].values() for run in found["runs"]])
    parts = [
        f"## UPS and FNO at equal wall time, Burgers nu = {protocol['nu']:g}",
        _protocol_words(protocol),
        _main_table(data),
        _standing(data),
        "UPS against FNO, paired over seeds and test trajectories: a ratio below 1 and a difference below 0 say that "
        "UPS is better. The typical ratio is the geometric mean over trajectories. Intervals by two-way resampling; "
        "with few seeds a verdict also needs all of them to agree.",
        _comparison_table(data),
        "Validation nRMSE (40 frames, as deployed) over training time: the averaged weights of that moment, mean over "
        "seeds.",
        _time_table(data),
        f"Learning rates: validation nRMSE after {protocol['tune_seconds']:g} s on seed {protocol['tuning_seed']}; the "
        "chosen one in bold.",
        _tuning_table(data),
        f"Measured on {where}.",
        *_notes(data),
    ]
    return "\n\n".join(parts)


def grade(value: float | None, target: Sequence[float] | None) -> str:
    """Where an error lies: excellent, pass or missed; a dash without a value or a target."""
    if value is None or target is None:
        return "–"
    good, excellent = target
    return "excellent" if value <= excellent else "pass" if value <= good else "missed"


def _protocol_words(p: Data) -> str:
    return (
        f"nRMSE on {p['test']} test trajectories ({p['train']} train, {p['validation']} validate), {p['cells']} cells, "
        f"{p['frames']} frames of {p['dt']:g}; mean over trajectories, ± standard deviation over seeds "
        f"{', '.join(map(str, p['seeds']))}, in brackets the median over trajectories (mean over seeds). Every run "
        f"trains {p['seconds']:g} s on one core, its {p['validations']} validations included, in the same loop with "
        "the same losses, augmentation, rollout curriculum, batches and schedule. UPS is `burgers1d` (deployed "
        "re-encoded), UPS latent `burgers1d_latent` (deployed latent). The frame of an FNO is the canonical frame; "
        "without it the position is an input channel; plain means without the frame, without augmentation, trained "
        "on single steps. Steps are training steps a second over the run; milliseconds are those of a 40-frame "
        "rollout as deployed, per trajectory in a batch."
    )


def _main_table(data: Data) -> str:
    targets = data["protocol"]["targets"]
    header = ["model", "parameters", *PROTOCOLS.values(), "steps/s", "ms/trajectory", "against targets, in this order"]
    rows = []
    for model, found in data["models"].items():
        runs = _complete(found)
        means = {protocol: _seed_means(runs, protocol) for protocol in PROTOCOLS}
        rows.append(
            [
                f"**{WORDS[model]}**" if model.startswith("ups") else WORDS[model],
                f"{found['runs'][0]['parameters']:,}",
                *(_error_cell(runs, protocol) for protocol in PROTOCOLS),
                spread([run["steps"] / run["seconds"] for run in runs]),
                spread([run["ms_per_trajectory"] for run in runs]),
                ", ".join(grade(fmean(each) if each else None, targets.get(name)) for name, each in means.items()),
            ]
        )
    for name, found in data["references"].items():
        cells = [_error_cell([found], protocol) for protocol in PROTOCOLS]
        rows.append([name, "–", *cells, "–", number(found["ms_per_trajectory"]), "–"])
    if targets:
        words = [" / ".join(map(number, targets[name])) if name in targets else "–" for name in PROTOCOLS]
        rows.append(["*target: pass / excellent*", "≤ 1 M", *words, "–", "–", "–"])
    return table(header, rows)


def _standing(data: Data) -> str:
    """One sentence a comparison of the deployed rollouts."""
    lines = [
        f"{WORDS[each['ups']]}: {number(each['ratio_of_means'])} times the error of {WORDS[each['fno']]}"
        for each in data["comparisons"]
        if each["protocol"] == "deployed"
    ]
    return "Where it stands, 40 frames: " + "; ".join(lines) + "." if lines else "No pair of finished runs to compare."


def _comparison_table(data: Data) -> str:
    names = {"one_step": "one step", "deployed": "40 frames, as deployed", "from_tenth": "31 frames from the tenth"}
    rows = [
        ([f"{WORDS[each['ups']]} / {WORDS[each['fno']]}", names[each["protocol"]]], each)
        for each in data["comparisons"]
    ]
    return pair_table(["pair", "protocol"], rows)


def _time_table(data: Data) -> str:
    p = data["protocol"]
    shares = [k / p["validations"] for k in range(1, p["validations"] + 1)]
    rows = []
    for model, found in data["models"].items():
        measured = [[run["milestones"].get(f"operator:{share:g}") for share in shares] for run in found["runs"]]
        rows.append([WORDS[model], *(number(_mean(column)) for column in zip(*measured, strict=True))])
    return table(["model", *(f"{share * p['seconds']:g} s" for share in shares)], rows)


def _tuning_table(data: Data) -> str:
    rows = []
    for model, found in data["models"].items():
        cells = []
        for each in found["tuning"]:
            words = number(each["score"]) if each["status"] == "COMPLETE" else f"{each['status']}"
            cells.append(f"**{words}**" if each["rate"] == found["rate"] else words)
        rows.append([WORDS[model], *cells])
    return table(["model", *(f"{rate:g}" for rate in data["protocol"]["rates"])], rows)


def _notes(data: Data) -> Iterator[str]:
    """What a reader must know before trusting the tables."""
    rates = data["protocol"]["rates"]
    models = data["models"]
    edge = [WORDS[model] for model, found in models.items() if found["rate"] in (min(rates), max(rates))]
    if edge:
        yield f"Note: the chosen rate lies at an end of the grid for {', '.join(edge)}."
    runs = [(model, run) for model, found in models.items() for run in found["runs"]]
    for model, run in runs:
        if run["status"] != "COMPLETE":
            yield f"Note: {WORDS[model]}, seed {run['seed']} is left out, {run['status']}: {run['reason']}."
    yield from starved_note([run["core_share"] for _, run in runs])


def _comparisons(models: Mapping[str, Data]) -> Iterator[Data]:
    """Every UPS against every FNO on the seeds that both completed."""
    for ups in (model for model in models if model.startswith("ups")):
        for fno in (model for model in models if not model.startswith("ups")):
            for protocol in ("one_step", "deployed", "from_tenth"):
                ours, theirs = (_errors(models[model], protocol) for model in (ups, fno))
                found = compared(ours, theirs, ("UPS", "FNO"))
                if found:
                    yield {"ups": ups, "fno": fno, "protocol": protocol, **found}


def _errors(found: Data, protocol: str) -> dict[int, list[float | None]]:
    """Seed -> error of each test trajectory."""
    return {
        run["seed"]: run["errors"][run["deployed"] if protocol == "deployed" else protocol] for run in _complete(found)
    }


def _complete(found: Data) -> list[Data]:
    return [run for run in found["runs"] if run["status"] == "COMPLETE"]


def _seed_means(runs: Sequence[Data], protocol: str) -> list[float]:
    return [mean_error(run["errors"][protocol]) for run in runs if protocol in run["errors"]]


def _error_cell(runs: Sequence[Data], protocol: str) -> str:
    means = _seed_means(runs, protocol)
    if not means:
        return "–"
    middle = fmean(median(infinite(run["errors"][protocol])) for run in runs)
    return f"{spread(means)} ({number(middle)})"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

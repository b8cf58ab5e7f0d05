"""From the studies of ablations.py to their JSON, and from that to the section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from common import machine_words, number, spread, table
from pairs import Data, Errors, compared, infinite, mean_error, pair_table

from ups.core.types import Status


@dataclass(frozen=True)
class Claim:
    """Something that was said before: one arm is better than each of others."""

    words: str
    better: str
    worse: tuple[str, ...]


def judge(claim: Claim, errors: Mapping[str, Errors]) -> Data:
    """What the intervals say of a claim. `errors`: arm -> seed -> error of each test trajectory."""
    pairs, missing = [], []
    for other in claim.worse:
        found = compared(errors.get(claim.better, {}), errors.get(other, {}), (claim.better, other))
        if found is None:
            missing.append(other)
        else:
            pairs.append({"other": other, **found})
    for_it = [each["other"] for each in pairs if each["decided"] and each["difference"] < 0]
    against = [each["other"] for each in pairs if each["decided"] and each["difference"] > 0]
    open_ones = [each["other"] for each in pairs if not each["decided"]]
    if against:
        verdict = "refuted"
    elif for_it and not open_ones and not missing:
        verdict = "holds"
    else:
        verdict = "holds in part" if for_it else "not shown"
    return {
        "claim": claim.words,
        "better": claim.better,
        "verdict": verdict,
        "for": for_it,
        "against": against,
        "open": open_ones,
        "missing": missing,
        "pairs": pairs,
    }


def collect(
    protocol: Data,
    axes: Mapping[str, Data],
    studies: Mapping[str, Mapping[int, Data]],
    claims: Mapping[str, Sequence[Claim]],
    machine: Data,
) -> Data:
    """Everything that was measured as one JSON-able record, verdicts included."""
    collected = {}
    for name, by_seed in studies.items():
        errors = _errors(by_seed)
        collected[name] = {
            **axes[name],
            "studies": [{"seed": seed, **study} for seed, study in by_seed.items()],
            "verdicts": [judge(claim, errors) for claim in claims[name]],
        }
    return {"benchmark": "ablations", "protocol": protocol, "machine": machine, "axes": collected}


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p = data["protocol"]
    answers = [study for axis in data["axes"].values() for study in axis["studies"]]
    parts = [
        "## Ablations by the project's own search, Burgers nu = 0.01",
        f"Grid studies without pruning, one for each training seed {', '.join(map(str, p['seeds']))}; every trial on "
        f"one core, one thread. The operator stage of every trial trains {p['seconds']:g} s, validations included. "
        f"Validation and test nRMSE over 40 frames from one, {p['test']} test trajectories ({p['train']} train, "
        f"{p['validation']} validate), {p['cells']} cells, {p['frames']} frames of {p['dt']:g}; mean over "
        "trajectories, ± standard deviation over seeds. The noise floor is the standard deviation of the base's "
        "validation score: a difference of one run below it says nothing. Verdicts come from intervals of paired "
        "two-way resampling over seeds and test trajectories; with few seeds all of them must agree. Steps are those "
        "of the operator stage, none where it was found in the store; memory is the peak of the worker process.",
        *(part for axis in data["axes"].values() for part in _axis_parts(axis)),
        f"Measured on {machine_words(data['machine'], answers)}.",
    ]
    return "\n\n".join(parts)


def _axis_parts(axis: Data) -> Iterator[str]:
    arms = _arms({study["seed"]: study for study in axis["studies"]})
    yield f"### {axis['title']} (`{axis['space']}`)"
    base = axis["studies"][0]["base"]
    # a trial that stalled has a score, too, but not one of the base at the end of its training
    scores = [trial["score"] for trial in arms.get(base, {}).values() if trial["state"] == Status.COMPLETE]
    floor = f"{number(stdev(scores))} over {len(scores)} seeds" if len(scores) > 1 else "not measured"
    yield f"Base: {base}. Noise floor {floor}."
    yield _arm_table(arms, base)
    yield "\n".join(f"- {_verdict_words(each)}" for each in axis["verdicts"])
    pairs = [(verdict, pair) for verdict in axis["verdicts"] for pair in verdict["pairs"]]
    if pairs:
        yield pair_table(["pair"], [([f"{verdict['better']} / {pair['other']}"], pair) for verdict, pair in pairs])
    for arm, trials in arms.items():
        for seed, trial in trials.items():
            if trial["state"] != "COMPLETE":
                yield f"Note: {arm}, seed {seed} is left out, {trial['state']}: {trial['reason']}"


def _arm_table(arms: Mapping[str, Mapping[int, Data]], base: str) -> str:
    columns = {
        "validation": lambda trial: trial["score"],
        "test": lambda trial: mean_error(trial["errors"]),
        "one step": lambda trial: _known(trial["one_step"]),
        "correlation time": lambda trial: trial["correlation_time"],
        "steps": lambda trial: trial["steps"] or None,
        "ms/trajectory": lambda trial: trial["ms_per_trajectory"],
        "training, s": lambda trial: sum(stage["seconds"] for stage in trial["stages"].values()),
        "memory, GiB": lambda trial: trial["peak_gib"],
    }
    complete = {arm: [each for each in found.values() if each["state"] == "COMPLETE"] for arm, found in arms.items()}
    header = ["arm", "weights", *columns]
    if any("alone" in trial for trials in complete.values() for trial in trials):
        columns |= {
            "test, operator alone": lambda trial: mean_error(trial["alone"]),
            "validation, with the stage": lambda trial: trial["stages"]["diff_residual"]["score_after"],
            "its last over its best": lambda trial: _last_over_best(trial["curve"]),
        }
        header = ["arm", "weights", *columns]
    rows = []
    for arm, trials in complete.items():
        name = f"**{arm}**" if arm == base else arm
        weights = next((f"{trial['parameters']:,}" for trial in arms[arm].values() if trial["parameters"]), "–")
        rows.append([name, weights, *(spread([value(trial) for trial in trials]) for value in columns.values())])
    return table(header, rows)


def _verdict_words(found: Data) -> str:
    """One sentence: the claim, what became of it, and against whom."""
    said = [
        f"better than {_list(found['for'])}" if found["for"] else "",
        f"worse than {_list(found['against'])}" if found["against"] else "",
        f"undecided against {_list(found['open'])}" if found["open"] else "",
        f"not comparable with {_list(found['missing'])}" if found["missing"] else "",
    ]
    return f"“{found['claim']}”: **{found['verdict']}**. {found['better']} is {'; '.join(filter(None, said))}."


def _list(arms: Sequence[str]) -> str:
    return " / ".join(f"({arm})" if "," in arm else arm for arm in arms)


def _last_over_best(curve: Sequence[float | None]) -> float:
    """Above 1: training on made the validation error of the stage worse again."""
    known = infinite(curve)
    return known[-1] / min(known)


def _known(value: float | None) -> float:
    return infinite([value])[0]


def _arms(studies: Mapping[int, Data]) -> dict[str, dict[int, Data]]:
    """Arm -> seed -> trial, in the order of the trials."""
    found: dict[str, dict[int, Data]] = {}
    for seed, study in studies.items():
        for trial in study["trials"]:
            found.setdefault(trial["arm"], {})[seed] = trial
    return found


def _errors(studies: Mapping[int, Data]) -> dict[str, dict[int, Any]]:
    return {
        arm: {seed: trial["errors"] for seed, trial in trials.items() if trial["state"] == "COMPLETE"}
        for arm, trials in _arms(studies).items()
    }

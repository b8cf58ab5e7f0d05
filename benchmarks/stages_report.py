"""From the runs of stages.py to their JSON, and from that to the section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from common import machine_words, number, spread, starved_note, table
from pairs import Data, compared, infinite, mean_error, pair_table

STUDENT_AIM = 1.10
RANK_AIM = 0.3
WORDS = {
    "operator": "operator alone",
    "diffusion": "with diffusion residual",
    "diffusion 0": "with diffusion residual, temperature 0",
    "diffusion 1": "with diffusion residual, temperature 1",
    "student 1": "with student, 1 step",
    "student 2": "with student, 2 steps",
    "control": "operator, given the time of all stages",
}
PAIRS = (
    ("diffusion", "operator"),
    ("student 1", "diffusion"),
    ("student 2", "diffusion"),
    ("student 1", "operator"),
    ("diffusion", "control"),
    ("student 1", "control"),
)


def collect(protocol: Data, runs: Sequence[Data], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record, comparisons included."""
    pairs = []
    for first, second in PAIRS:
        for split in ("validation", "test"):
            found = compared(_errors(runs, first, split), _errors(runs, second, split), (WORDS[first], WORDS[second]))
            if found:
                pairs.append({"first": first, "second": second, "split": split, **found})
    return {
        "benchmark": "stages",
        "protocol": protocol,
        "machine": machine,
        "runs": list(runs),
        "pairs": pairs,
        "shares": list(_shares(runs)),
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p = data["protocol"]
    seconds = ", ".join(f"{name} {value:g} s" for name, value in p["seconds"].items())
    parts = [
        f"## Diffusion residual and its student, Burgers nu = {p['nu']:g}",
        f"`{p['config']}`, every stage limited by time ({seconds}; validations included, one core), seeds "
        f"{', '.join(map(str, p['seeds']))}. nRMSE over 40 frames from one, {p['validation']} validation and "
        f"{p['test']} test trajectories ({p['train']} train), {p['cells']} cells, {p['frames']} frames of {p['dt']:g}; "
        "mean over trajectories, ± standard deviation over seeds. The residual is sampled once a step from fixed noise "
        f"at temperature {p['temperature']:g}, where no other is said, in {p['sampler_steps']} {p['solver']} steps. "
        f"Beside them an operator alone that trained {p['control_seconds']:g} s: the stages' time and that of encoding "
        "their latents.",
        _predictor_table(data),
        "Paired over seeds and trajectories (two-way resampling, 95 %; with few seeds all must agree): a ratio below 1 "
        "says that the first is better.",
        _pair_table(data),
        *_verdicts(data),
        f"Ensembles of {p['members']} rollouts of the test trajectories: rank correlation of spread and error of the "
        "mean across trajectories at a fixed frame, averaged over frames; relative: spread over size against nRMSE; "
        "size alone: what a spread that only follows the size of the field would have. Spread over skill is 1 for an "
        "ensemble of the right size.",
        _ensemble_table(data),
        "What each stage brings: the validation error before it (the best so far) and after it, its part of the way "
        "from the initial mean's error to the best one, and its part of the training time.",
        _share_table(data),
        f"Measured on {machine_words(data['machine'], data['runs'])}.",
        *_notes(data),
    ]
    return "\n\n".join(parts)


def _predictor_table(data: Data) -> str:
    rows = []
    for name, words in WORDS.items():
        found = _of(data["runs"], name)
        if found:
            errors = [[mean_error(each[split]) for each in found] for split in ("validation", "test", "one_step")]
            rows.append([words, *map(spread, errors), spread([each["ms_per_trajectory"] for each in found])])
    return table(["predictor", "validation", "test", "test, one step", "ms/trajectory"], rows)


def _pair_table(data: Data) -> str:
    rows = [([f"{WORDS[each['first']]} / {WORDS[each['second']]}", each["split"]], each) for each in data["pairs"]]
    return pair_table(["first / second", "split"], rows)


def _verdicts(data: Data) -> Iterator[str]:
    pairs = {(each["first"], each["second"], each["split"]): each for each in data["pairs"]}
    diffusion = pairs.get(("diffusion", "operator", "validation"))
    if diffusion:
        yield (
            f"The diffusion residual {_changes(diffusion)} the validation error of the operator alone, "
            f"{_percent(diffusion)}: {diffusion['verdict']}."
        )
    for name in ("student 1", "student 2"):
        pair = pairs.get((name, "diffusion", "test"))
        if pair:
            verdict = "reached" if pair["ratio_of_means"] <= STUDENT_AIM else "missed"
            yield (
                f"{WORDS[name].capitalize()}: {number(pair['ratio_of_means'])} times the teacher's test error; the "
                f"aim, at most {STUDENT_AIM:g}, is {verdict}."
            )
    for name in ("diffusion", "student 1"):
        found = pairs.get((name, "control", "test"))
        if found:
            yield (
                f"The time of the later stages given to the operator instead: {WORDS[name]} has "
                f"{number(found['ratio_of_means'])} times its test error, {found['verdict']}."
            )


def _changes(pair: Data) -> str:
    if not pair["decided"]:
        return "does not measurably change"
    return "lowers" if pair["difference"] < 0 else "raises"


def _percent(pair: Data) -> str:
    return f"{pair['ratio_of_means'] - 1:+.1%}"


def _ensemble_table(data: Data) -> str:
    columns = {
        "rank_correlation": "rank correlation",
        "relative_rank_correlation": "relative",
        "size_rank_correlation": "size alone",
        "spread_skill": "spread over skill",
        "member_nrmse": "nRMSE of one",
        "nrmse": "nRMSE of the mean",
    }
    rows = []
    for name in ("diffusion", "student 1"):
        found = [run["ensembles"][name] for run in data["runs"] if run.get("ensembles")]
        if found:
            values = {key: [each[key] for each in found] for key in columns}
            # a spread that follows the size of the field alone would do for the first of the two
            ranks = [fmean(infinite(values[key])) for key in ("rank_correlation", "relative_rank_correlation")]
            verdict = "reached" if min(ranks) >= RANK_AIM else "missed"
            rows.append([WORDS[name], *(spread(infinite(each)) for each in values.values()), verdict])
    return table(["ensemble", *columns.values(), f"aim: first two {RANK_AIM:g}"], rows)


def _share_table(data: Data) -> str:
    rows = [
        [
            each["stage"],
            number(each["before"]),
            number(each["after"]),
            f"{each['score_share']:.1%}",
            f"{each['time_share']:.0%}",
            f"{each['deployed']} of {each['runs']}",
        ]
        for each in data["shares"]
    ]
    if not rows:
        return "No run completed."
    return table(["stage", "before", "after", "share of the score", "share of the time", "deployed"], rows)


def _shares(runs: Sequence[Data]) -> Iterator[Data]:
    """Means over the seeds of what each stage changed and cost."""
    whole = [run for run in runs if run["kind"] == "stages" and run["status"] == "COMPLETE"]
    if not whole:
        return
    for stage in whole[0]["stages"]:
        before, after, part, times, kept = [], [], [], [], 0
        for run in whole:
            summary = run["stages"][stage]
            start = run["no_skill"] if stage == "operator" else summary["score_before"]
            best = min(each["score_after"] for each in run["stages"].values())
            before.append(start)
            after.append(summary["score_after"])
            # a stage that does not help is left out: it brings nothing, not less than nothing
            part.append(max(0.0, start - summary["score_after"]) / (run["no_skill"] - best))
            times.append(summary["seconds"] / sum(each["seconds"] for each in run["stages"].values()))
            kept += summary["kept"]
        yield {
            "stage": stage,
            "before": fmean(before),
            "after": fmean(after),
            "score_share": fmean(part),
            "time_share": fmean(times),
            "deployed": kept,
            "runs": len(whole),
        }


def _notes(data: Data) -> Iterator[str]:
    for run in data["runs"]:
        if run["status"] != "COMPLETE":
            yield f"Note: {run['kind']}, seed {run['seed']} is left out, {run['status']}: {run['reason']}."
    yield from starved_note([run["core_share"] for run in data["runs"]])


def _of(runs: Sequence[Data], name: str) -> list[Data]:
    return [found for _, found in _by_seed(runs, name)]


def _by_seed(runs: Sequence[Data], name: str) -> Iterator[tuple[int, Data]]:
    kind, predictor = ("control", "operator") if name == "control" else ("stages", name)
    for run in runs:
        finished = run["kind"] == kind and run["status"] == "COMPLETE"
        if finished and predictor in run["predictors"]:
            yield run["seed"], run["predictors"][predictor]


def _errors(runs: Sequence[Data], name: str, split: str) -> dict[int, list[float | None]]:
    return {seed: found[split] for seed, found in _by_seed(runs, name)}

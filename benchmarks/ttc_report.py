"""From the measurements of ttc.py to their JSON, and from that to the section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from common import machine_words, number, spread, starved_note, table
from pairs import Data, compared, mean_error, pair_table

GAIN_AIM = 0.95
"""of the test error of the plain rollout"""
SPEED_AIM = 2.0
OVERHEAD_AIM = 1.15
WORDS = {"ttc": "search", "plain": "plain rollout, as deployed", "best plain": "best plain rollout on validation"}


def collect(protocol: Data, cases: Sequence[Data], speed: Data | None, machine: Data) -> Data:
    """Everything that was measured as one JSON-able record, comparisons included."""
    pairs = []
    for case in cases:
        rows = _test_rows(case)
        for second in rows:
            for first in ("ttc", "wide operator"):
                if first == second or (first == "wide operator" and second != "plain") or first not in rows:
                    continue
                found = compared(rows[first], rows[second], (_word(first), _word(second)))
                if found:
                    pairs.append({"case": case["name"], "first": first, "second": second, **found})
    return {
        **{"benchmark": "ttc", "protocol": protocol, "machine": machine},
        **{"cases": list(cases), "speed": speed, "pairs": pairs},
    }


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    parts = [
        "## Search at test time",
        _protocol(data["protocol"]),
        "### Without a search",
        _plain_table(data),
        "### The oracle: what any reward could win",
        f"Candidates ranked by their true error on {data['protocol']['oracle_trajectories']} test trajectories, "
        "which no reward can see. `diffusion T`, `student T`: residuals sampled at temperature T around the "
        "operator's result; `noise s`: Gaussian noise of deviation s on the latent. First one step from states of the "
        "plain rollout: mean error of the best of K over that of the plain proposal, the same draws for every K.",
        _one_step_table(data),
        "Most of that error is what the state had already, which no candidate of one step can take back; so ratios "
        "near 1 here do not bound what choosing wins over a whole rollout.",
        "Then whole rollouts in which every step takes the truly best candidate (greedy, so that over many steps it "
        "is a mark and no bound): nRMSE over that of the plain rollout, ± standard deviation over seeds. Token: the "
        "last candidate takes every token from the candidate that is locally nearest to the truth.",
        _oracle_table(data),
        *_oracle_sentences(data),
        "### Selected on validation",
        "The best setting of each kind by validation nRMSE, over the plain rollout's; the least of a case is measured "
        "on test trajectories. None makes more than 8 evaluations a step.",
        _selection_table(data),
        "### On test trajectories",
        "Paired over seeds and trajectories (two-way resampling, 95 %; with few seeds all must agree): a ratio below 1 "
        "says that the first is better.",
        _pair_table(data, lambda each: each["first"] == "ttc" and each["second"] in ("plain", "best plain")),
        *_verdicts(data),
        "Error against candidates, everything else as selected; `4 x n`: four rounds of n.",
        _budget_table(data),
        "Rank correlation between the candidates of one state of each term and the true error, at the selected draws: "
        "as fitted on training trajectories, and on test trajectories.",
        _term_table(data),
        "The same search by other rewards, nRMSE over the plain rollout's.",
        _reward_table(data),
        "### What else the time could buy",
        f"Ensemble: the mean of {data['protocol']['members']} rollouts with a sampled correction. Mean of each step: "
        "every step goes on from the mean of as many candidates, no reward. Wide operator: trained for the time of all "
        "stages. All test trajectories, wall time in one process.",
        _competitor_table(data),
        _pair_table(data, lambda each: each["second"] not in ("plain", "best plain") or each["first"] != "ttc"),
        *_solver_sentences(data),
        *_wide_sentences(data),
        *_judge_sentences(data),
        *_speed(data),
        f"Measured on {machine_words(data['machine'], list(_answers(data)))}.",
        *_notes(data),
    ]
    return "\n\n".join(part for part in parts if part)


def _protocol(p: Data) -> str:
    seconds = ", ".join(f"{name} {value:g} s" for name, value in p["seconds"].items())
    return (
        f"`burgers1d_diffusion`, every stage limited by time ({seconds}, one core), seeds "
        f"{', '.join(map(str, p['seeds']))}. nRMSE over {p['frames'] - 1} frames from one, {p['cells']} cells, dt "
        f"{p['dt']:g}, {p['train']} training, {p['validation']} validation and {p['test']} test trajectories; mean "
        "over trajectories, ± standard deviation over seeds. Rewards are fitted on training trajectories, settings are "
        "selected on validation trajectories by the mean over seeds, and test trajectories decide nothing. The wide "
        f"operator has {p['wide_hidden_dim']} channels and trains {p['wide_seconds']:g} s. Later stages sampled at "
        "temperature 1 while they trained, and decided there whether they are deployed."
    )


def _plain_table(data: Data) -> str:
    rows = []
    for case in data["cases"]:
        found = [run["oracle"]["plain"] for run in _measured(case, "oracle")]
        for name in found[0] if found else ():
            errors = [spread([each[name][split]["error"] for each in found]) for split in ("validation", "test")]
            mark = " (best on validation)" if name == case["best_plain"] else ""
            word = name
            if name == "deployed":
                kinds = sorted({run["oracle"]["correction"] for run in _measured(case, "oracle")})
                word = f"as deployed (corrector {', '.join(kinds)})"
            cost = spread([each[name]["test"]["ms_per_trajectory"] for each in found])
            rows.append([case["name"], word + mark, *errors, cost])
    return table(["case", "predictor, temperature", "validation", "test", "ms/trajectory"], rows)


def _one_step_table(data: Data) -> str:
    counts = [str(count) for count in data["protocol"]["counts"]]
    rows = []
    for case in data["cases"]:
        found = [run["oracle"]["one_step"] for run in _measured(case, "oracle")]
        for draws in found[0] if found else ():
            rows.append([case["name"], draws, *(spread([each[draws][count] for each in found]) for count in counts)])
    return table(["case", "draws", *(f"best of {count}" for count in counts)], rows)


def _oracle_table(data: Data) -> str:
    names = _oracle_names(data)
    rows = []
    for case in data["cases"]:
        runs = _measured(case, "oracle")
        for draws in runs[0]["oracle"]["rollout"] if runs else ():
            ratios = [_oracle_ratios(runs, draws, name) for name in names]
            rows.append([case["name"], draws, *(spread(each) if each else "–" for each in ratios)])
    return table(["case", "draws", *names], rows)


def _oracle_names(data: Data) -> list[str]:
    """The columns of whole-rollout oracles, in the order in which they were measured."""
    found: dict[str, None] = {}
    for case in data["cases"]:
        for run in _measured(case, "oracle"):
            for each in run["oracle"]["rollout"].values():
                found |= dict.fromkeys(each)
    return sorted(found, key=lambda name: (name.split()[0] == "token", int(name.split()[1])))


def _oracle_ratios(runs: Sequence[Data], draws: str, name: str) -> list[float | None]:
    """Of each seed; empty where it was not measured."""
    return [run["oracle"]["rollout"][draws][name] for run in runs if name in run["oracle"]["rollout"][draws]]


def _oracle_sentences(data: Data) -> Iterator[str]:
    for case in data["cases"]:
        runs = _measured(case, "oracle")
        if not runs:
            continue
        best: dict[str, tuple[float, str]] = {}
        for draws in runs[0]["oracle"]["rollout"]:
            for name in runs[0]["oracle"]["rollout"][draws]:
                ratios = [each for each in _oracle_ratios(runs, draws, name) if each is not None]
                if ratios and len(ratios) == len(runs):
                    kind = "corrections" if draws.split()[0] in ("diffusion", "student") else "noise"
                    key = f"{kind}, {name.split()[0]}"
                    best[key] = min(best.get(key, (float("inf"), "")), (fmean(ratios), f"{draws}, {name}"))
        told = "; ".join(f"{key} {number(ratio)} ({how})" for key, (ratio, how) in sorted(best.items()))
        yield f"{case['name']}: the least ratio that the true error reached, by what is drawn and chosen: {told}."


def _selection_table(data: Data) -> str:
    rows = []
    for case in data["cases"]:
        runs = _measured(case, "select")
        if not runs:
            continue
        plain = fmean(run["select"]["plain"] for run in runs)
        kinds: dict[str, tuple[float, str]] = {}
        unusable = 0
        for name in runs[0]["select"]["settings"]:
            errors = [run["select"]["settings"][name]["error"] for run in runs]
            if None in errors:
                unusable += 1
                continue
            draws, *how = name.split(", ")
            # a beam or a look-ahead is a kind of its own, the number of rounds is not
            kind = ", ".join([draws.split()[0], *(word for word in how if "rounds" not in word)])
            kinds[kind] = min(kinds.get(kind, (float("inf"), "")), (fmean(errors) / plain, name))
        for kind, (ratio, name) in sorted(kinds.items(), key=lambda item: item[1]):
            mark = " (selected)" if name == case["selected"] else ""
            rows.append([case["name"], kind, name + mark, number(ratio)])
        if unusable:
            rows.append([case["name"], "no reward was usable", f"{unusable} settings", "–"])
    return table(["case", "kind", "best setting", "ratio"], rows)


def _pair_table(data: Data, keep: Callable[[Data], bool]) -> str:
    rows = [
        ([each["case"], f"{_word(each['first'])} / {_word(each['second'])}"], each)
        for each in data["pairs"]
        if keep(each)
    ]
    return pair_table(["case", "first / second"], rows)


def _verdicts(data: Data) -> Iterator[str]:
    for case in data["cases"]:
        pair = _pair(data, case, "ttc", "plain")
        if pair is None:
            if case["selected"] is None:
                yield f"{case['name']}: no setting had a usable reward, so there is nothing to deploy."
            continue
        reached = pair["ratio_of_means"] <= GAIN_AIM and pair["decided"]
        yield (
            f"{case['name']}, {case['selected']}: the search has {number(pair['ratio_of_means'])} times the error of "
            f"the plain rollout, {pair['verdict']}; the aim, at least {1 - GAIN_AIM:.0%} lower with an interval that "
            f"excludes zero, is {'reached' if reached else 'missed'}."
        )
        errors = [error for run in _measured(case, "test") for error in run["test"]["rows"]["plain"]["errors"]]
        lost = sum(error is None or error > 1 for error in errors)
        if lost:
            yield (
                f"{case['name']}: {lost} of {len(errors)} plain test rollouts (all seeds) end worse than a field of "
                "zeros, with an error above 1, and outweigh all others in every mean above; the typical ratio is the "
                "one to read."
            )


def _budget_table(data: Data) -> str:
    rows, names = [], list[str]()
    for case in data["cases"]:
        found = [run["test"]["budget"] for run in _measured(case, "test")]
        if not found:
            continue
        names = list(found[0])
        for word, key in (
            ("nRMSE", "error"),
            ("ms/trajectory", "ms_per_trajectory"),
            ("decoded/step", "decoder_per_step"),
        ):
            rows.append([case["name"], word, *(spread([each[name].get(key) for each in found]) for name in names)])
    return table(["case", "", *names], rows) if rows else ""


def _term_table(data: Data) -> str:
    rows = []
    for case in data["cases"]:
        found = [run["test"]["terms"] for run in _measured(case, "test")]
        for index in range(len(found[0]) if found else 0):
            terms = [each[index] for each in found]
            used = sum(term["used"] for term in terms)
            columns = (spread([term[key] for term in terms]) for key in ("training", "here"))
            rows.append([case["name"], terms[0]["name"], *columns, f"{used} of {len(terms)}"])
    return table(["case", "term", "training", "test", "used in"], rows) if rows else ""


def _reward_table(data: Data) -> str:
    rows = []
    for case in data["cases"]:
        runs = _measured(case, "test")
        if not runs:
            continue
        plain = [mean_error(run["test"]["rows"]["plain"]["errors"]) for run in runs]
        selected = [
            mean_error(run["test"]["rows"]["ttc"]["errors"]) / base for run, base in zip(runs, plain, strict=True)
        ]
        costs = [run["test"]["rows"]["ttc"]["ms_per_trajectory"] for run in runs]
        rows.append([case["name"], "as selected (adaptive)", spread(selected), spread(costs), ""])
        for name in runs[0]["test"]["rewards"]:
            each = [run["test"]["rewards"][name] for run in runs]
            ratios = [
                None if one["error"] is None else one["error"] / base for one, base in zip(each, plain, strict=True)
            ]
            reasons = sorted({one["reason"] for one in each if one.get("reason")})
            word = "term alone: " + name.replace("_", " ") if name in _TERMS else name
            note = f"no usable reward in {len([r for r in ratios if r is None])} of {len(each)}" if reasons else ""
            rows.append(
                [case["name"], word, spread(ratios), spread([one.get("ms_per_trajectory") for one in each]), note]
            )
    return table(["case", "reward", "ratio", "ms/trajectory", "note"], rows) if rows else ""


_TERMS = ("conservation", "dissipation", "maximum_principle", "total_variation", "residual", "positivity")


def _competitor_table(data: Data) -> str:
    rows = []
    for case in data["cases"]:
        found = [run["test"]["rows"] for run in _measured(case, "test")]
        for name in found[0] if found else ():
            errors = spread([mean_error(each[name]["errors"]) for each in found])
            rows.append(
                [case["name"], _word(name), errors, spread([each[name]["ms_per_trajectory"] for each in found])]
            )
    return table(["case", "predictor", "nRMSE", "ms/trajectory"], rows) if rows else ""


def _solver_sentences(data: Data) -> Iterator[str]:
    for case in data["cases"]:
        found = [run["test"]["rows"] for run in _measured(case, "test")]
        name = next((name for name in (found[0] if found else ()) if name.startswith("solver of the residual")), None)
        if name is None:
            continue
        error, cost = (
            {row: fmean(value(each[row]) for each in found) for row in ("ttc", name)}
            for value in (lambda row: mean_error(row["errors"]), lambda row: row["ms_per_trajectory"])
        )
        without = [run["test"]["rewards"]["adaptive, without residual"]["error"] for run in _measured(case, "test")]
        left = (
            "without that term no reward was usable in any run"
            if without.count(None) == len(without)
            else f"without that term: {spread(without)}"
        )
        yield (
            f"{case['name']}: the residual term contains a solver of the equation on the task's grid. Rolled out alone "
            f"it scores {number(error[name])} in {number(cost[name])} ms a trajectory; the search that asks it scores "
            f"{number(error['ttc'])} in {number(cost['ttc'])} ms, {number(error['ttc'] / error[name])} times the error "
            f"at {number(cost['ttc'] / cost[name])} times the wall time; {left}."
        )


def _wide_sentences(data: Data) -> Iterator[str]:
    for case in data["cases"]:
        pair = _pair(data, case, "wide operator", "plain")
        if pair is None:
            continue
        worse = pair["decided"] and pair["difference"] > 0
        yield (
            f"{case['name']}: the wide operator alone has {number(pair['ratio_of_means'])} times the error of the "
            f"plain rollout after as much training time, {pair['verdict']}"
            + ("; to be better than it says nothing of a wide operator that has converged." if worse else ".")
        )


def _judge_sentences(data: Data) -> Iterator[str]:
    """What a learned critic could be worth: a whole second operator as the judge, and the same two averaged instead."""
    for case in data["cases"]:
        found = [run["test"]["rows"] for run in _measured(case, "test")]
        names = ("ttc, judged by a second operator", "mean of both operators")
        if not found or any(name not in rows for name in names for rows in found):
            continue
        judged, averaged = (
            spread([mean_error(rows[name]["errors"]) / mean_error(rows["plain"]["errors"]) for rows in found])
            for name in names
        )
        yield (
            f"{case['name']}: with a second operator (the next seed's) as the judge, which has learned from all "
            f"training trajectories, the same search has {judged} times the plain error; the two operators averaged "
            f"in every step have {averaged} times."
        )


def _speed(data: Data) -> Iterator[str]:
    speed = data["speed"]
    if speed is None:
        return
    yield "### Vectorisation"
    yield (
        f"{speed['case']}, seed {speed['seed']}, alone on one core, medians of interleaved repeats. With residual: all "
        "terms of the equation; without: all but the one that integrates it. Candidates of one state drawn, decoded "
        "and judged in one call, and one by one:"
    )
    rows = [
        [
            *(each["source"], each["reward"], str(each["candidates"])),
            *(number(each["together_ms"]), number(each["one_by_one_ms"]), number(each["ratio"])),
            "reached" if each["ratio"] >= SPEED_AIM else "missed",
        ]
        for each in speed["one_call"]
    ]
    columns = ["draws", "terms", "candidates", "one call, ms", "one by one, ms", "times faster"]
    yield table([*columns, f"aim: {SPEED_AIM:g}"], rows)
    yield (
        "A searched rollout against the same numbers of operator, student and decoder calls, each in one call a step; "
        "and against these with the encoder, which a re-encoded rollout calls anyway:"
    )
    rows = [
        [
            *(each["source"], each["reward"], str(each["batch"])),
            *(number(each[name]) for name in ("search_ms", "calls_ms", "ratio", "ratio_with_encoder")),
            "reached" if each["ratio"] <= OVERHEAD_AIM else "missed",
            _shares(each["parts"]),
        ]
        for each in speed["overhead"]
    ]
    columns = ["draws", "terms", "batch", "search, ms", "calls, ms", "ratio", "with encoder"]
    yield table([*columns, f"aim: {OVERHEAD_AIM:g}", "where the time goes"], rows)


def _shares(parts: Mapping[str, float]) -> str:
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ordered)


def _notes(data: Data) -> Iterator[str]:
    for case in data["cases"]:
        for run in case["runs"]:
            for kind in ("train", "wide"):
                if run[kind]["status"] != "COMPLETE":
                    words = f"{run[kind]['status']}: {run[kind]['reason']}"
                    yield f"Note: {case['name']}, seed {run['seed']} is left out, {kind} {words}."
    yield from starved_note([answer["core_share"] for answer in _answers(data)])


def _answers(data: Data) -> Iterator[Data]:
    """Of all jobs that measured something."""
    for case in data["cases"]:
        for run in case["runs"]:
            yield from (run[kind] for kind in ("oracle", "select", "test") if kind in run)
    if data["speed"]:
        yield data["speed"]


def _measured(case: Data, kind: str) -> list[Data]:
    return [run for run in case["runs"] if kind in run]


def _test_rows(case: Data) -> dict[str, dict[int, list[float | None]]]:
    """predictor -> seed -> errors."""
    found: dict[str, dict[int, Any]] = {}
    for run in _measured(case, "test"):
        for name, row in run["test"]["rows"].items():
            found.setdefault(name, {})[run["seed"]] = row["errors"]
    return found


def _pair(data: Data, case: Data, first: str, second: str) -> Data | None:
    pairs: list[Data] = data["pairs"]
    wanted = case["name"], first, second
    return next((each for each in pairs if (each["case"], each["first"], each["second"]) == wanted), None)


def _word(name: str) -> str:
    return WORDS.get(name, name)

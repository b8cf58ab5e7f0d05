"""What `ups search` and `ups trials` say of objectives, constraints and the noise floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from tune.listing import pareto_table, summary_json, summary_lines, trials_json, trials_table
from tune.search import Summary
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from ups.config import RunConfig
from ups.core.types import Status

LR = "stages.operator.optimizer.lr"


def record(number: int, score: float | None, origin: str = "sampled", **metrics: float) -> TrialRecord:
    state = Status.EXPLODED if score is None else Status.COMPLETE
    reason = "boom" if score is None else ""
    params = {LR: 0.1 * number} if number else {}
    return TrialRecord(number, state, score, reason, params, 60.0, (), {}, 1234, origin, metrics)


TRIALS = (
    record(0, 0.40, "base", inference_ms=2.0),
    record(1, 0.41, "noise", inference_ms=2.0),
    record(2, 0.39, "noise", inference_ms=2.0),
    record(3, None),
    record(4, 0.20, inference_ms=1.0),
    record(5, 0.10, inference_ms=7.5),
)


def search(objectives: tuple[str, ...] = ("rollout_nrmse",), **limits: float) -> SearchConfig:
    return SearchConfig.parse(
        {
            "base": "b.yaml",
            "space": {LR: {"float": [0.01, 1.0]}},
            "objective": [{"metric": name} for name in objectives],
            "constraints": {name: {"max": limit} for name, limit in limits.items()},
        }
    )


def summary(config: SearchConfig, folder: Path, trials: tuple[TrialRecord, ...] = TRIALS) -> Summary:
    return Summary(folder, trials, 6, 60.0, None, False, config)


def shown(table: Any) -> list[list[str]]:
    """The cells of a table, line by line, without its frame."""
    console = Console(width=250, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in captured.get().splitlines() if "│" in line]


def test_trials_that_break_a_constraint_come_after_those_that_hold_it(base: RunConfig, tmp_path: Path):
    table = trials_table(StudyFolder(tmp_path, search(inference_ms=5.0), base, TRIALS), top=10)
    rows = shown(table)
    assert [row[0] for row in rows] == ["4", "0", "5", "2", "1", "3"], "repetitions of the base are no candidates"
    assert rows[2][-1] == "breaks a constraint: inference_ms 7.5, at most 5"
    assert [column.header for column in table.columns] == [
        "trial", "state", "rollout_nrmse", "time", "weights", "ms a step", "parameters", "reason",
    ]  # fmt: skip
    assert [row[5] for row in rows] == ["1", "2", "7.5", "2", "2", "–"]
    plain = trials_table(StudyFolder(tmp_path, search(), base, TRIALS), top=10)
    assert "ms a step" not in [column.header for column in plain.columns]
    assert shown(plain)[0][0] == "5"


def test_a_study_with_several_objectives_has_a_pareto_table(base: RunConfig, tmp_path: Path):
    several = search(("rollout_nrmse", "inference_ms"))
    assert [row[0] for row in shown(pareto_table(StudyFolder(tmp_path, several, base, TRIALS)))] == ["5", "4"]
    assert pareto_table(StudyFolder(tmp_path, search(), base, TRIALS)) is None


def test_the_summary_claims_no_more_than_the_noise_floor_allows(tmp_path: Path):
    lines = "\n".join(summary_lines(summary(search(inference_ms=5.0), tmp_path)))
    assert "better than noise: 0.2 is below" in lines
    assert "constraints: 1 of 5 that ran to their end break one" in lines
    assert "Pareto" not in lines
    close = (*TRIALS[:3], record(4, 0.395, inference_ms=1.0))
    assert "within the noise floor: 0.395" in "\n".join(summary_lines(summary(search(), tmp_path, close)))
    several = summary(search(("rollout_nrmse", "inference_ms")), tmp_path)
    assert "Pareto front: 2 trials, 5, 4" in "\n".join(summary_lines(several))


def test_the_summary_as_json(tmp_path: Path):
    found = json.loads(json.dumps(summary_json(summary(search(inference_ms=5.0), tmp_path)), allow_nan=False))
    assert found["best"]["number"] == 4
    assert found["best"]["metrics"] == {"inference_ms": 1.0}
    assert found["breaking_a_constraint"] == 1
    assert found["pareto_front"] is None
    assert (found["noise_floor"]["n"], found["noise_floor"]["lost"]) == (3, 0)
    assert found["noise_floor"]["claim"].startswith("better than noise")
    several = summary_json(summary(search(("rollout_nrmse", "inference_ms")), tmp_path))
    assert [each["number"] for each in several["pareto_front"]] == [5, 4]
    assert summary_json(summary(search(), tmp_path, TRIALS[3:]))["noise_floor"] is None


def test_trials_as_json_keep_their_keys():
    row = json.loads(trials_json(TRIALS))[4]
    assert list(row) == ["number", "state", "score", "reason", "params", "seconds", "reused_stages", "metrics"]

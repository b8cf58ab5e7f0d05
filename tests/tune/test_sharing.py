"""What trials shared is counted exactly, and drawn legibly for three trials and for a thousand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tune.endings import endings, kind_of
from tune.parallel import AXES, LINES, parallel_coordinates
from tune.report_tables import sharing
from tune.sharing import all_of, chains, prefixes
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from tune.tree_figure import SMALLEST, stage_tree
from ups.config import RunConfig
from ups.core.types import Status

LR, EPOCHS, RATE = "stages.operator.optimizer.lr", "stages.diff_residual.epochs", "stages.diff_residual.optimizer.lr"
SEARCH = SearchConfig.parse(
    {
        "base": "base.yaml",
        "space": {
            LR: {"float": [1e-4, 1.0], "log": True},
            EPOCHS: {"int": [0, 4]},
            RATE: {"float": [1e-5, 1e-1], "log": True, "when": {EPOCHS: "> 0"}},
            "decoder.kind": {"choice": ["grid", "anypoint"]},
        },
    }
)
TASK = {"equation": "burgers", "files": ["data/a.h5"], "train": 8, "validation": 2, "test": 4}
BASE = RunConfig.parse({"task": TASK})


def trial(number: int, lr: float, epochs: int = 0, score: float | None = 0.1, **more: Any) -> TrialRecord:
    params = {LR: lr, EPOCHS: epochs, **({RATE: 1e-3} if epochs else {}), "decoder.kind": "grid"}
    record = {"number": number, "state": Status.COMPLETE, "score": score, "reason": "", "params": params}
    fixed = {"seconds": 0.0, "reused_stages": (), "milestones": {}, "parameters": 7}
    return TrialRecord(**{**record, **fixed, **more})


def study(*trials: TrialRecord) -> StudyFolder:
    return StudyFolder(Path("made"), SEARCH, BASE, trials)


@pytest.fixture
def shared() -> StudyFolder:
    """Two operators; below the first a correction that two trials need, the other one stopped halfway."""
    both = ("operator", "diff_residual")
    return study(
        trial(0, 0.1, stage_seconds={"operator": 50.0}),
        trial(1, 0.1, 2, reused_stages=("operator",), stage_seconds={"diff_residual": 30.0}, score=0.05),
        trial(2, 0.1, 2, reused_stages=both, stage_seconds={"inference": 5.0}, score=0.04),
        trial(3, 0.2, state=Status.PRUNED, stage_seconds={"operator": 25.0}, reason="worse"),
        trial(4, 0.3, state=Status.INFEASIBLE, score=None),
    )


def test_a_prefix_holds_every_trial_that_went_through_it(shared: StudyFolder) -> None:
    roots = prefixes(shared, chains(shared))
    assert [[each.number for each in root.trials] for root in roots] == [[0, 1, 2], [3]]
    (correction,) = roots[0].below
    assert (correction.stage, [each.number for each in correction.trials]) == ("diff_residual", [1, 2])
    assert [each.best for each in all_of(roots)] == [0.04, 0.04, None]
    assert [each.reused for each in all_of(roots)] == [2, 1, 0]
    assert [each.saved for each in all_of(roots)] == [100.0, 30.0, 0.0]


def test_the_table_says_what_sharing_saved(shared: StudyFolder) -> None:
    text = re.sub(r"<[^>]*>", " ", sharing(shared, prefixes(shared, chains(shared))))
    assert "130 s" in text or "2 min more" in text
    elsewhere = study(trial(0, 0.1, reused_stages=("operator",)))
    text = sharing(elsewhere, prefixes(elsewhere, chains(elsewhere)))
    assert "1 stage(s) came from a store that others had filled" in text


@pytest.mark.parametrize("count", [1, 3, 40, 1000])
def test_the_tree_is_legible_however_many_trials_there_are(count: int) -> None:
    made = study(*(trial(n, 0.1 + (n % (count // 2 + 1)) / count, score=0.1 + n) for n in range(count)))
    names = {n: {"operator": str(n % (count // 2 + 1)), "diff_residual": f"{n % 5}"} for n in range(count)}
    text = stage_tree(made, prefixes(made, names))
    boxes = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', text)]
    assert 1 <= len(boxes) < 200
    height = float(re.search(r'viewBox="0 0 440 ([\d.]+)"', text)[1])  # type: ignore[index]
    assert height < 400
    tops = [float(top) for top in re.findall(r'<rect [^>]*y="([\d.]+)"', text)]
    assert all(top + own <= height for top, own in zip(tops, boxes, strict=True))
    told = [int(number) for number in re.findall(r"<title>operator of trial \d+: (\d+) trial", text)]
    told += [int(number) for number in re.findall(r"more operator, (\d+) trials together", text)]
    assert sum(told) == count
    assert sum(box < SMALLEST - 3 for box in boxes) <= len(boxes) / 2


def test_kinds_of_reasons_leave_out_what_is_a_trials_own() -> None:
    behind = "score 0.{} at operator:0.25 is number {} of 30 that arrived; the best 3 go on, up to 0.1"
    exploded = "gradient norm 6.{}e10 at step 8{} of operator"
    trials = [
        *(trial(n, 0.1, state=Status.PRUNED, reason=behind.format(n, n)) for n in range(1, 4)),
        *(trial(n, 0.1, state=Status.EXPLODED, reason=exploded.format(n, n)) for n in range(4, 6)),
        trial(6, 0.1, state=Status.FAILED, reason="KeyError: 'x' (traceback in runs/0006/traceback.txt)\nmore"),
        trial(7, 0.1, state=Status.RUNNING, score=None),
        trial(8, 0.1),
    ]
    found = [(str(each.state), each.kind, len(each.trials)) for each in endings(trials)]
    assert found == [
        ("PRUNED", "behind others at operator:0.25", 3),
        ("EXPLODED", "gradient norm … at step … of operator", 2),
        ("FAILED", "KeyError: 'x'", 1),
        ("RUNNING", "still on its way", 1),
    ]
    assert len(kind_of(trial(9, 0.1, state=Status.FAILED, reason="x" * 500))) < 100


def test_parallel_coordinates_name_their_axes_and_stay_small() -> None:
    many = [trial(n, 10 ** -(3 * ((n * 0.618) % 1)), n % 4, score=0.1 + (n * 0.414) % 1) for n in range(1000)]
    text = parallel_coordinates(study(*many), [EPOCHS])
    named = re.findall(r'font-weight="600">([^<]*)<', text)
    assert named == [EPOCHS, f"{LR}, log", f"{RATE}, log", "validation rollout_nrmse, log"][:2] + named[2:]
    assert named[-1] == "validation rollout_nrmse, log"
    assert "decoder.kind" not in named, "it is the same in all"
    assert "none" in text, "some have no rate"
    assert len(named) <= AXES + 1
    assert f"({LINES} of 1000)" in text
    assert len(text) < 60_000
    assert parallel_coordinates(study(many[0]), []) == ""

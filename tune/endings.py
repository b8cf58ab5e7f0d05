"""How trials ended and why: counted by state and kind of reason, and drawn over the course of the search."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tune.study import TrialRecord
from tune.trial import DIVERGED
from ups.core.types import Status
from ups.pages.charts import AMBER, BLUE, GREY, RED, Axis, Bars, Layer, Mark, chart

GROUPS: tuple[tuple[str, str, Mark, tuple[Status, ...]], ...] = (
    ("ran to the end", BLUE, "dot", (Status.COMPLETE,)),
    ("stopped early", GREY, "ring", (Status.PRUNED, Status.STALLED)),
    ("diverged or impossible", RED, "cross", DIVERGED),
    ("unfinished or failed", AMBER, "cross", (Status.RUNNING, Status.INTERRUPTED, Status.FAILED)),
)
"""(words, colour, mark, states): how all charts tell the ends of trials apart"""
_WINDOWS = 40
_BEHIND = re.compile(r" at ([a-z_]+:[\d.]+) is number \d+ of \d+ that arrived")
_NUMBER = re.compile(r"[-+]?\b\d[\d.,]*(?:e[-+]?\d+)?\b")
_LETTERS = 90


@dataclass(frozen=True)
class Ending:
    """Trials that ended for the same kind of reason."""

    state: Status
    kind: str
    trials: tuple[TrialRecord, ...]
    """by number"""


def group_of(trial: TrialRecord) -> tuple[str, str, Mark]:
    """Words, colour and mark of a trial's end."""
    return next((words, colour, mark) for words, colour, mark, states in GROUPS if trial.state in states)


def endings(trials: Sequence[TrialRecord]) -> tuple[Ending, ...]:
    """What did not run to the end, the most frequent kind first."""
    found: dict[tuple[Status, str], list[TrialRecord]] = {}
    for trial in trials:
        if trial.state is not Status.COMPLETE:
            found.setdefault((trial.state, kind_of(trial)), []).append(trial)
    kinds = [Ending(state, kind, tuple(group)) for (state, kind), group in found.items()]
    return tuple(sorted(kinds, key=lambda ending: (-len(ending.trials), ending.trials[0].number)))


def kind_of(trial: TrialRecord) -> str:
    """A trial's reason without what is its own: numbers, and where its traceback is."""
    behind = _BEHIND.search(trial.reason)
    if behind:
        return f"behind others at {behind[1]}"
    lines = trial.reason.splitlines()
    if not lines:
        return "still on its way" if trial.state is Status.RUNNING else "no reason noted"
    kind = _NUMBER.sub("…", lines[0].split(" (traceback")[0])
    return kind if len(kind) <= _LETTERS else kind[: _LETTERS - 1] + "…"


def endings_over_trials(trials: Sequence[TrialRecord]) -> str:
    """How many trials ended in which way, in the order of their numbers."""
    size = math.ceil(len(trials) / _WINDOWS)
    windows = [trials[start : start + size] for start in range(0, len(trials), size)]
    left = [window[0].number - 0.5 for window in windows]
    right = [window[-1].number + 0.5 for window in windows]
    low = [0] * len(windows)
    layers: list[Layer] = []
    said = []
    for words, colour, _, states in GROUPS:
        counts = [sum(trial.state in states for trial in window) for window in windows]
        if any(counts):
            high = [below + count for below, count in zip(low, counts, strict=True)]
            layers.append(Bars(left, right, low, high, words, colour))
            said.append(f"{sum(counts)} {words}")
            low = high
    each = f"{size} trials" if size > 1 else "trial"
    text = f"Of {len(trials)} trials, {', '.join(said)}. A bar is for each {each}."
    return chart(
        "How trials ended", text, Axis("trial", whole=True, log=False), Axis("trials", (), False, True), layers
    )

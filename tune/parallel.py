"""Parallel coordinates: each complete trial as a line through its parameters, down to its score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from tune.domain import Domain
from tune.objectives import scored
from tune.study import StudyFolder, TrialRecord
from ups.pages.charts import AMBER, BLUE, bundle, figure, legend_key, px, short

AXES = 12
"""parameters that are drawn, the most important"""
LINES = 300
"""trials that are drawn at most: all of the best, an even choice of the others"""
_WIDTH, _LEFT, _RIGHT, _ABSENT, _PITCH, _FIRST = 440, 14, 372, 418, 54, 26
_SPREAD = 7.0
"""pixels by which lines through one category part"""
_WHOLE = 8
"""values of an integer that each have a tick"""
_SHARES = ((1.0, "#c3ccd6", 1.0), (0.5, "#93b4d8", 1.0), (0.1, BLUE, 1.4))
"""(share of the trials, the best, that are at least so; colour; width), those on top last"""


def parallel_coordinates(study: StudyFolder, order: Sequence[str]) -> str:
    """Empty below two complete trials.

    Args:
        order: names by importance; those that are not in it come after it, in the order of the space.
    """
    space = study.config.space
    trials = scored(study.trials)
    trials.sort(key=lambda trial: (trial.score, trial.number))
    ranked = [*order, *(name for name in space if name not in order)]
    varied = [name for name in ranked if len({str(trial.params.get(name)) for trial in trials}) > 1]
    if len(trials) < 2 or not varied:
        return ""
    names = varied[:AXES]
    drawn = _thinned(trials)
    axes = [_Axis(name, space[name], drawn, _FIRST + index * _PITCH) for index, name in enumerate(names)]
    scores = _ScoreAxis([trial.score or 0.0 for trial in drawn], _FIRST + len(names) * _PITCH)
    lines = [
        [*((axis.place(trial, rank), axis.y) for axis in axes), (scores.place(trial.score or 0.0), scores.y)]
        for rank, trial in enumerate(drawn)
    ]
    shares = [_share(trial, trials) for trial in drawn]
    parts = []
    for share, colour, width in _SHARES:
        chosen = bundle(line for line, own in zip(lines, shares, strict=True) if own <= share)
        parts.append(f'<path fill="none" stroke="{colour}" stroke-width="{width}" d="{chosen}"/>')
    parts.append(f'<path fill="none" stroke="{AMBER}" stroke-width="2.6" d="{bundle(lines[:1])}"/>')
    parts += [*(axis.drawing() for axis in axes), scores.drawing()]
    left = len(varied) - len(names)
    said = (
        f"A line is a trial that ran to its end ({len(drawn)} of {len(trials)}), from its parameters at the top, the "
        f"most important first, to its score at the bottom. The best is trial {trials[0].number} with "
        f"{short(trials[0].score or 0.0)}. At the right, apart, are trials without that parameter."
        + (f" {left} less important parameters are not drawn." if left else "")
    )
    words = ("the better half", "the best tenth")
    legend = [
        legend_key(f'<path stroke="{AMBER}" stroke-width="2.6" d="M0 7h22"/>', f"trial {trials[0].number}, the best"),
        *(
            legend_key(f'<path stroke="{colour}" stroke-width="2.2" d="M0 7h22"/>', word)
            for (_, colour, _), word in zip(reversed(_SHARES), (*reversed(words), "the others"), strict=True)
        ),
    ]
    height = scores.y + 26
    return figure("Parameters and score of each trial", said, "".join(parts), (_WIDTH, height), legend)


def _thinned(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """By score: the best third of what is drawn, and an even choice of the others."""
    if len(trials) <= LINES:
        return list(trials)
    best, others = trials[: LINES // 3], trials[LINES // 3 :]
    wanted = LINES - len(best)
    return [*best, *(others[round(index * (len(others) - 1) / (wanted - 1))] for index in range(wanted))]


def _share(trial: TrialRecord, trials: Sequence[TrialRecord]) -> float:
    return sum((other.score or 0.0) < (trial.score or 0.0) for other in trials) / len(trials)


class _Axis:
    """One parameter: where a trial's line crosses it, and how it is drawn."""

    def __init__(self, name: str, domain: Domain, trials: Sequence[TrialRecord], y: float) -> None:
        self.name, self.y, self._domain = name, y, domain
        values = [trial.params[name] for trial in trials if name in trial.params]
        self._options: list[str] = []
        self._is_partial = len(values) < len(trials)
        if domain.choice is not None:
            # a given config may have a value outside the space
            self._options = list(dict.fromkeys([*map(str, domain.choice), *map(str, values)]))
            self._scale: Callable[[Any], float] = lambda value: self._options.index(str(value))
            self._low, self._high = -0.5, len(self._options) - 0.5
        else:
            self._scale = math.log if domain.log else float
            low, high = min([*domain.bounds, *values]), max([*domain.bounds, *values])
            self._low, self._high = self._scale(low), self._scale(high)
            whole = range(int(low), int(high) + 1)
            self._ticks = whole if domain.integers is not None and len(whole) <= _WHOLE else (low, high)

    def place(self, trial: TrialRecord, rank: int) -> float:
        if self.name not in trial.params:
            return _ABSENT + _spread(rank)
        place = _at(self._scale(trial.params[self.name]), self._low, self._high)
        return place + _spread(rank) if self._domain.options is not None else place

    def drawing(self) -> str:
        ticks = (
            [(_at(index, self._low, self._high), option) for index, option in enumerate(self._options)]
            if self._options
            else [(_at(self._scale(value), self._low, self._high), f"{value:g}") for value in self._ticks]
        )
        scale = ", log" if self._domain.log else ""
        return _axis(self.y, f"{self.name}{scale}", ticks, self._is_partial)


class _ScoreAxis:
    def __init__(self, scores: Sequence[float], y: float) -> None:
        self.y, self._ends = y, (min(scores), max(scores))
        self._is_log = self._ends[0] > 0
        low, high = map(self._scale, self._ends)
        self._low, self._high = (low, high) if high > low else (low - 0.5, high + 0.5)

    def _scale(self, score: float) -> float:
        return math.log(score) if self._is_log else score

    def place(self, score: float) -> float:
        return _at(self._scale(score), self._low, self._high)

    def drawing(self) -> str:
        ends = dict.fromkeys(self._ends)
        ticks = [(self.place(end), short(end)) for end in ends]
        return _axis(self.y, f"validation rollout_nrmse{', log' if self._is_log else ''}", ticks, False)


def _at(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)


def _spread(rank: int) -> float:
    """Lines side by side, in a fixed order without a pattern: the golden ratio's multiples."""
    return ((rank * 0.618034) % 1.0 - 0.5) * 2 * _SPREAD


def _axis(y: float, name: str, ticks: Sequence[tuple[float, str]], is_partial: bool) -> str:
    parts = [f'<path class="axis" d="M{_LEFT} {px(y)}H{_RIGHT}"/>']
    parts.append(f'<text class="halo" x="2" y="{px(y - 9)}" font-weight="600">{escape(name)}</text>')
    letters = max(3, int((_RIGHT - _LEFT) / max(len(ticks), 1) / 7))
    for index, (x, label) in enumerate(ticks):
        cut = label if len(label) <= letters else label[: letters - 1] + "…"
        anchor = "middle"
        if x < 40:
            x, anchor = 2, "start"
        elif index == len(ticks) - 1 and x > _RIGHT - 20:
            anchor = "end"
        parts.append(f'<path class="axis" d="M{px(max(x, _LEFT))} {px(y - 3)}v6"/>')
        parts.append(
            f'<text class="halo soft" x="{px(x)}" y="{px(y + 16)}" text-anchor="{anchor}">{escape(cut)}</text>'
        )
    if is_partial:
        parts.append(f'<path class="axis" d="M{px(_ABSENT - _SPREAD)} {px(y)}h{px(2 * _SPREAD)}"/>')
        parts.append(f'<text class="halo soft" x="{_ABSENT}" y="{px(y + 16)}" text-anchor="middle">none</text>')
    return "".join(parts)

"""A search told line by line, where there is no terminal; and the words that its panel and other tables share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from tune.objectives import Reference
from tune.running import Snapshot
from tune.study import TrialRecord
from ups.cli.terminal import shown_seconds as shown_seconds
from ups.core.types import Status


class LineView:
    """A line for every trial that ended."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream

    def progress(self, snapshot: Snapshot) -> None:
        return None

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None:
        best = snapshot.best
        parts = [
            f"trial {record.number:<4} {record.state:<10} {shown_score(record.score):>8}",
            f"{snapshot.ended} of {snapshot.wanted}",
            f"best {shown_score(best.score)} (trial {best.number})" if best else "nothing complete yet",
            f"{shown_seconds(snapshot.left_seconds)} left" if snapshot.left_seconds else "",
            f"reused {', '.join(record.reused_stages)}" if record.reused_stages else "",
            record.reason if record.state not in (Status.COMPLETE, Status.PRUNED) else "",
        ]
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)


def best_line(best: TrialRecord, reference: Reference | None) -> str:
    """The best score and what it gains on the golden, or on the base."""
    line = f"{shown_score(best.score)}, trial {best.number}"
    if reference is None or reference.record.score is None or best.score is None:
        return line
    if best.number == reference.record.number:
        return f"{line}, the {reference.name} itself"
    gain = best.score / reference.record.score - 1
    return f"{line}, {gain:+.1%} to the {reference.name}'s {shown_score(reference.record.score)}"


def shown_params(params: Mapping[str, Any]) -> str:
    """`lr 0.0021  tokens 32`: every name cut to its shortest unique end."""
    return "  ".join(_words(params))


def fitted_params(params: Mapping[str, Any], width: int, lines: int) -> list[str]:
    """The same in at most so many lines of at most so many columns; what does not fit is counted: `and 7 more`."""
    words = _words(params)
    for kept in range(len(words), -1, -1):
        rest = [f"and {len(words) - kept} more"] if kept < len(words) else []
        found = _filled([*words[:kept], *rest], width)
        if len(found) <= lines and all(len(line) <= width for line in found):
            return found
    return []


def _words(params: Mapping[str, Any]) -> list[str]:
    names = short_names(list(params))
    return [f"{names[path]} {shown_value(value)}" for path, value in params.items()]


def _filled(words: list[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= width:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines


def short_names(paths: list[str]) -> dict[str, str]:
    """The shortest end of each path, in whole parts, that no other path has."""
    found = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        found[path] = next(
            (end for end in ends if sum(other == end or other.endswith(f".{end}") for other in paths) == 1), path
        )
    return found


def shown_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shown_score(score: float | None) -> str:
    return "–" if score is None else f"{score:.4g}"

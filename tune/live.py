"""A search in the terminal: a panel that follows it, or one line for every trial where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.running import Running, Snapshot
from tune.study import TrialRecord
from ups.core.types import Status

_COLOURS = {
    Status.COMPLETE: "green",
    Status.PRUNED: "yellow",
    Status.EXPLODED: "red",
    Status.NOT_FINITE: "red",
    Status.FAILED: "bold red",
}


class PanelView:
    """A context manager that keeps a panel below the cursor up to date; it disappears at the end."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._snapshot: Snapshot | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def progress(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def _render(self) -> RenderableType:
        found = self._snapshot
        if found is None:
            return Panel(Text("starting the workers"), title=self._title, title_align="left")
        return Panel(panel(found), title=self._title, title_align="left")


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
            record.reason if record.state not in (Status.COMPLETE, Status.PRUNED) else "",
        ]
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)


def panel(found: Snapshot) -> Group:
    """Trials by state, the best so far with its parameters, what runs, the time that is left."""
    states = Text(f"{found.ended} of {found.wanted} trials   ")
    for state, count in sorted(found.states.items()):
        states.append(f"{state} {count}  ", style=_COLOURS.get(state, ""))
    if found.running:
        states.append(f"RUNNING {len(found.running)}", style="cyan")
    left = f", about {shown_seconds(found.left_seconds)} left" if found.left_seconds is not None else ""
    rows: list[RenderableType] = [
        states,
        ProgressBar(total=found.wanted, completed=found.ended),
        Text(f"{shown_seconds(found.elapsed_seconds)} so far{left}"),
    ]
    if found.best is not None:
        rows.append(Text.assemble((f"best {best_line(found.best, found.base)}", "bold")))
        rows.append(Text(shown_params(found.best.params), style="dim"))
    if found.running:
        rows.append(_running(found.running))
    return Group(*rows)


def best_line(best: TrialRecord, base: TrialRecord | None) -> str:
    """The best score and what it gains on the base."""
    line = f"{shown_score(best.score)}, trial {best.number}"
    if base is None or base.score is None or best.score is None:
        return line
    if best.number == base.number:
        return f"{line}, the base itself"
    return f"{line}, {best.score / base.score - 1:+.1%} to the base's {shown_score(base.score)}"


def shown_params(params: Mapping[str, Any]) -> str:
    """`lr 0.0021  tokens 32`: every name cut to its shortest unique end."""
    names = short_names(list(params))
    return "  ".join(f"{names[path]} {shown_value(value)}" for path, value in params.items())


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


def shown_seconds(seconds: float | None) -> str:
    """`8 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _running(running: tuple[Running, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("trial", "stage", "", "score", "parameters"):
        table.add_column(name)
    for each in running:
        table.add_row(
            str(each.trial.number),
            each.stage or "starting",
            ProgressBar(total=1.0, completed=each.share, width=20),
            shown_score(each.score),
            Text(shown_params(each.trial.params), style="dim", overflow="ellipsis", no_wrap=True),
        )
    return table

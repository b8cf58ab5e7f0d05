"""A search on a terminal: a panel below the cursor that says what it does, keeps its height, and goes at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.live import best_line, fitted_params, shown_params, shown_score, shown_seconds
from tune.running import Running, Snapshot
from tune.study import TrialRecord
from ups.core.types import Status

_STYLES = {
    Status.COMPLETE: "green",
    Status.PRUNED: "yellow",
    Status.EXPLODED: "red",
    Status.NOT_FINITE: "red",
    Status.FAILED: "bold red",
}
_PARAM_LINES = 2
"""that the best trial's parameters have at most, and always take"""
_LABEL, _BORDER, _FRAME = 9, 4, 2
"""columns of the words on the left, columns of the frame with its padding, and its lines"""
_SPENT = len("59 min 59 s, about 59 min 59 s left")
_SHARE, _EPOCH, _SCORE, _TIME = 4, 5, 9, len("59 min 59 s")
_GAP = 2
_LONGEST_BAR, _SHORTEST_REST = 20, 12


class PanelView:
    """A context manager that keeps a panel below the cursor up to date; it disappears at the end."""

    def __init__(self, title: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._panel = SearchPanel(title)
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._start = self._taken = clock()
        # what a library prints appears above the panel; but what goes to a file stays there
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def progress(self, snapshot: Snapshot) -> None:
        self._snapshot, self._taken = snapshot, self._clock()

    def ended(self, record: TrialRecord, snapshot: Snapshot) -> None:
        self.progress(snapshot)
        if record.state is Status.FAILED:
            # nobody foresaw it, so it stays on the screen
            line = Text(f"trial {record.number} FAILED: {record.reason}", style="red")
            self._live.console.print(line, highlight=False)

    def _render(self) -> RenderableType:
        if self._snapshot is None:
            return Text(f"reading data and starting workers, {shown_seconds(self._clock() - self._start)}")
        return self._panel.of(self._snapshot, self._clock() - self._taken)


class SearchPanel:
    """The panel of a search. It remembers how high it was, as what moves up and down cannot be read."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows = 0
        """of trials on their way, the most so far"""
        self.stage_columns = len("starting")

    def of(self, snapshot: Snapshot, age: float = 0.0) -> RenderableType:
        """What is known, `age` seconds after the snapshot was taken."""
        self.rows = max(self.rows, snapshot.slots, len(snapshot.running))
        names = [stage for each in snapshot.running for stage in each.stages]
        self.stage_columns = max([self.stage_columns, *map(len, names)])
        return _Frame(self, snapshot, age)


class _Frame:
    """The panel at one moment, laid out when the terminal's size is known."""

    def __init__(self, panel: SearchPanel, snapshot: Snapshot, age: float) -> None:
        self._panel, self._snapshot, self._age = panel, snapshot, age

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - _BORDER
        facts = self._facts(width)
        # and the line of the cursor
        room = console.height - len(facts) - _FRAME - 1
        lines = [*facts, *self._trials(width, room)][: max(1, console.height - _FRAME - 1)]
        yield Panel(Group(*lines), title=self._panel.title, title_align="left", width=options.max_width)
        # the line of the cursor: what is typed, such as ^C, would break the frame, which then stays
        yield ""

    def _facts(self, width: int) -> list[RenderableType]:
        """Lines of a height of one each."""
        found, room = self._snapshot, width - _LABEL
        best: RenderableType = Text("no trial has run to its end yet", style="dim")
        params = [""] * _PARAM_LINES
        if found.best is not None:
            best = Text(best_line(found.best, found.reference), style="bold")
            params = fitted_params(found.best.params, room, _PARAM_LINES) or ["as the base has them"]
            params += [""] * (_PARAM_LINES - len(params))
        states = _wrapped(_states(found), room)
        return [
            _labelled("trials", self._progress(room)),
            *(_labelled("" if index else "states", line) for index, line in enumerate(states)),
            _labelled("best", best),
            *(_labelled("", Text(line, style="dim")) for line in params),
            _labelled("cost", Text(_cost(found))),
            _labelled("reused", Text(_reused(found))),
        ]

    def _progress(self, room: int) -> RenderableType:
        found, age = self._snapshot, self._age
        count, spent = f"{found.ended} of {found.wanted}", shown_seconds(found.elapsed_seconds + age)
        if found.left_seconds is not None:
            spent += f", about {shown_seconds(max(0.0, found.left_seconds - age))} left"
        # whatever the words say, the bar stays where it is
        columns = len(f"{found.wanted} of {found.wanted}")
        bar = min(2 * _LONGEST_BAR, room - columns - _SPENT - 2 * _GAP)
        if bar < 1:
            return Text(f"{count}, {spent}")
        table = Table.grid(padding=(0, _GAP, 0, 0))
        for width in (columns, bar, _SPENT):
            table.add_column(width=width, no_wrap=True)
        table.add_row(count, ProgressBar(total=found.wanted, completed=found.ended, width=bar), spent)
        return table

    def _trials(self, width: int, room: int) -> list[RenderableType]:
        """A heading and as many trials as `room` lines hold, in as many lines as there may ever be."""
        rows, running = min(room - 1, self._panel.rows), self._snapshot.running
        if rows < 1:
            return []
        shown = running if len(running) <= rows else running[: rows - 1]
        table = self._table(width, shown)
        lines: list[RenderableType] = [table]
        left = rows - len(shown)
        if len(shown) < len(running):
            lines.append(Text(f"and {len(running) - len(shown)} more", style="dim"))
            left -= 1
        return [*lines, *(Text("") for _ in range(left))]

    def _table(self, width: int, running: Iterable[Running]) -> Table:
        """Of fixed columns: the bar and the parameters have what is left over."""
        stage, found = self._panel.stage_columns, self._snapshot
        number = max(len("trial"), len(str(found.wanted)))
        left = width - number - stage - _SHARE - _EPOCH - _SCORE - _TIME - 5 * _GAP
        bar = min(_LONGEST_BAR, left - _GAP if left < _LONGEST_BAR + _SHORTEST_REST + 2 * _GAP else _LONGEST_BAR)
        rest = left - bar - 2 * _GAP
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        for name, columns in (("trial", number), ("stage", stage)):
            table.add_column(name, width=columns, no_wrap=True)
        if bar >= 1:
            table.add_column("", width=bar, no_wrap=True)
        for name, columns in (("", _SHARE), ("epoch", _EPOCH), ("score", _SCORE), ("for", _TIME)):
            table.add_column(name, width=columns, no_wrap=True, justify="right")
        if rest >= _SHORTEST_REST:
            table.add_column("parameters", width=rest, no_wrap=True)
        for each in running:
            name, share = each.at
            since = None if each.since is None else found.now - each.since + self._age
            cells: list[RenderableType] = [str(each.trial.number), name]
            if bar >= 1:
                cells.append(ProgressBar(total=1.0, completed=share or 0.0, width=bar))
            cells += ["" if share is None else f"{share:.0%}", "" if share is None else str(each.epoch)]
            cells += [shown_score(each.score), shown_seconds(since)]
            if rest >= _SHORTEST_REST:
                cells.append(Text(shown_params(each.trial.params), style="dim", overflow="ellipsis", no_wrap=True))
            table.add_row(*cells)
        return table


def _states(found: Snapshot) -> list[Text]:
    counts = dict(found.states)
    words = [Text(f"{state} {counts[state]}", _STYLES.get(state, "")) for state in Status if counts.get(state)]
    words.append(Text(f"RUNNING {len(found.running)}", style="cyan"))
    if found.waiting:
        words.append(Text(f"{found.waiting} waiting for a stage", style="dim"))
    return words


def _cost(found: Snapshot) -> str:
    spent, saved = found.spent_core_seconds, found.saved_core_seconds
    line = f"{spent:,.0f} core-seconds spent, {saved:,.0f} saved by reuse"
    return f"{line} ({saved / (spent + saved):.0%} of the whole)" if saved > 0 else line


def _reused(found: Snapshot) -> str:
    reused = found.reused
    if not reused:
        return "no stage so far"
    stages = "stage" if reused.total() == 1 else "stages"
    line = f"{reused.total()} {stages}: " + ", ".join(f"{stage} {count}" for stage, count in reused.items())
    return f"{line} ({found.account.unpriced} of unknown cost)" if found.account.unpriced else line


def _wrapped(words: Iterable[Text], width: int) -> list[Text]:
    """The words in lines of at most `width` columns, as far as each fits into one."""
    lines = [Text(no_wrap=True)]
    for word in words:
        gap = _GAP if lines[-1] else 0
        if gap and len(lines[-1]) + gap + len(word) > width:
            lines.append(Text(no_wrap=True))
            gap = 0
        lines[-1].append(" " * gap).append_text(word)
    return lines


def _labelled(label: str, content: RenderableType) -> RenderableType:
    if isinstance(content, Text):
        content.no_wrap, content.overflow = True, "ellipsis"
    table = Table.grid()
    table.add_column(min_width=_LABEL, no_wrap=True, style="dim")
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_row(label, content)
    return table

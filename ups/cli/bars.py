"""Progress of what takes minutes: bars with rate and remaining time on a terminal, single lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column

from ups.cli.terminal import can_redraw, shown_seconds

if TYPE_CHECKING:
    from ups.core.types import Progress, Report

LINE_SECONDS = 10.0
"""without a terminal a count is told at most this often, and at its end"""
_WIDE = 100
"""columns from which on there is room for what is nice to know"""

_LEFT = len("59 min 59 s left")
_PACE = len("12.3 steps/s, ") + _LEFT

Count = Callable[[int, int], None]
"""is told (done, wanted)"""


@contextmanager
def counting(label: str, unit: str, screen: Console | None = None) -> Iterator[Count]:
    """Gives what to call with (done, wanted): a bar with rate and remaining time, or a line now and then.

    Args:
        label: what is being done.
        unit: what is counted, in the plural.
        screen: where; None is stderr.
    """
    screen = screen or Console(stderr=True)
    if not can_redraw(screen):
        yield CountInLines(label, unit, screen.file)
        return
    columns = (
        _words("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        _words("{task.fields[speed]}"),
    )
    with _bars(columns, screen) as bars:
        task, start = bars.add_task(label, total=None, speed=""), time.monotonic()

        def count(done: int, wanted: int) -> None:
            speed = shown_speed(done, wanted, time.monotonic() - start, unit)
            bars.update(task, completed=done, total=wanted, speed=speed)

        yield count


class CountInLines:
    """A line now and then, and at the end, on how many of something are done."""

    def __init__(self, label: str, unit: str, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._label, self._unit, self._stream, self._clock = label, unit, stream, clock
        self._start = self._last = clock()

    def __call__(self, done: int, wanted: int) -> None:
        now = self._clock()
        if done < wanted and now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = shown_speed(done, wanted, now - self._start, self._unit)
        print(f"{self._label}: {done} of {wanted} {self._unit}, {speed}", file=self._stream, flush=True)


@contextmanager
def counting_several() -> Iterator[Callable[[str, int, int], None]]:
    """Gives what to call with (label, done, wanted), for things that are done after each other: a bar each, below the
    lines that are printed meanwhile. Without a terminal it shows nothing, and the lines have to do."""
    screen = Console(stderr=True)
    if not can_redraw(screen):
        yield lambda label, done, wanted: None
        return
    columns = (
        _words("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, min_width=_LEFT)),
    )
    with _bars(columns, screen, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def count(label: str, done: int, wanted: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=wanted, left="")
            seconds = bars.tasks[tasks[label]].elapsed
            left = shown_left(seconds * (wanted - done) / done) if done and seconds else ""
            bars.update(tasks[label], completed=done, left=left)

        yield count


@contextmanager
def training(stages: Sequence[str], screen: Console | None = None) -> Iterator[Report]:
    """What to report a run's progress to: a bar for each stage, or a line for each validation.

    Args:
        stages: that the run goes through, in their order.
        screen: where; None is stderr.
    """
    screen = screen or Console(stderr=True)
    if not can_redraw(screen):
        stream = screen.file
        yield lambda progress: _print_validation(progress, stream)
        return
    columns = (
        _words("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TaskProgressColumn(),
        # of one width whatever is said, so that the bars stay as long as they are
        TextColumn("{task.fields[news]}", table_column=Column(no_wrap=True, min_width=len(_news(screen, None, None)))),
    )
    with _bars(columns, screen) as bars:
        shown = StageBars(bars, stages)
        yield shown
        shown.end()


class StageBars:
    """A bar for each stage of a run, and one for what comes after the last; whichever is being prepared pulses."""

    def __init__(self, bars: Bars, stages: Sequence[str]) -> None:
        self._bars = bars
        self._names = [*stages, "evaluation"]
        self._tasks = [bars.add_task(name, total=1.0, news="") for name in self._names]
        self._at = 0
        self._score: float | None = None
        self._prepare(0, "data and model")

    def __call__(self, progress: Progress) -> None:
        at = self._names.index(progress.stage)
        for passed in range(self._at, at):
            # a stage that is found says nothing itself
            if not self._bars.tasks[passed].finished:
                self._bars.update(self._tasks[passed], total=1.0, completed=1.0, news="from the store")
        self._at = at
        # the latest score is shown until the next
        self._score = self._score if progress.score is None else progress.score
        news = _news(self._bars.console, progress, self._score)
        self._bars.update(self._tasks[at], total=1.0, completed=progress.share, news=news)
        if progress.share >= 1.0:
            self._prepare(at + 1, "")

    def end(self) -> None:
        """Of a run that has come to its end its evaluation has, too; of another one there is none."""
        last = self._tasks[-1]
        if self._at == len(self._tasks) - 1:
            self._bars.update(last, total=1.0, completed=1.0)
        else:
            self._bars.update(last, visible=False)

    def _prepare(self, index: int, news: str) -> None:
        self._at = index
        self._bars.update(self._tasks[index], total=None, news=news)


def _news(screen: Console, progress: Progress | None, score: float | None) -> str:
    """What is known beside the share, in fields of fixed widths; without `progress` as wide as it gets."""
    loss = "" if progress is None else f"{progress.train_loss:.3g}"
    pace = "" if progress is None else shown_pace(progress)
    words = [f"nRMSE {'–' if score is None else f'{score:.4g}':<8}", f"{pace:<{_PACE}}"]
    if screen.width >= _WIDE:
        words = [f"epoch {progress.epoch if progress else 0:<4}", f"loss {loss:<8}", *words]
    return "  ".join(words)


def shown_pace(progress: Progress) -> str:
    """Steps a second of a stage, validations included, and the time that is left of it."""
    if progress.seconds <= 0 or progress.share <= 0:
        return ""
    left = progress.seconds * (1 - progress.share) / progress.share
    return f"{_rate(progress.step / progress.seconds)} steps/s, {shown_left(left)}"


def shown_speed(done: int, wanted: int, seconds: float, unit: str) -> str:
    """`85.2 trajectories/s, 11 s left`; nothing before the first is done."""
    if done == 0 or seconds <= 0:
        return ""
    return f"{_rate(done / seconds)} {unit}/s, {shown_left(seconds * (wanted - done) / done)}"


def shown_left(seconds: float) -> str:
    return f"{shown_seconds(seconds)} left"


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _print_validation(progress: Progress, stream: IO[str]) -> None:
    if progress.score is not None:
        print(
            f"{progress.stage} {progress.share:6.1%}  epoch {progress.epoch}  loss {progress.train_loss:.4g}  "
            f"rollout_nrmse {progress.score:.4g}  {progress.seconds:.0f} s, {shown_pace(progress)}",
            file=stream,
            flush=True,
        )


def _words(text: str) -> TextColumn:
    return TextColumn(text, table_column=Column(no_wrap=True))


class _Bars(Bars):
    """With a free line for the cursor: what is typed, such as ^C, would break the last bar, which then stays."""

    _is_live = False

    def start(self) -> None:
        self._is_live = True
        super().start()

    def stop(self) -> None:
        self._is_live = False
        super().stop()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._is_live:
            yield ""


@contextmanager
def _bars(columns: Sequence[ProgressColumn], screen: Console, *, transient: bool = False) -> Iterator[Bars]:
    """Bars as wide as the screen, which go when what they show fails: the reason says more."""
    # what is printed meanwhile appears above them; but what goes to a file stays there
    with _Bars(
        *columns,
        console=screen,
        expand=True,
        refresh_per_second=4,
        transient=transient,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    ) as bars:
        try:
            yield bars
        except BaseException:
            bars.live.transient = True
            raise

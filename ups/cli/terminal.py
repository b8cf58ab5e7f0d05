"""What every command shares: exit codes, one-line errors, progress bars."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from typer.exceptions import TyperException

from ups.core.errors import UserError

if TYPE_CHECKING:
    from ups.core.types import Progress


def run_app(app: typer.Typer, args: Sequence[str] | None = None) -> int:
    """Run a Typer app; gives the exit code: 0 success, 2 a user's mistake, 1 failure, 130 interrupted.

    A mistake is one line on stderr. Anything unforeseen keeps its traceback.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main(args=args, prog_name="ups", standalone_mode=False)
    except UserError as error:
        return say(str(error), 2)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        words = sys.argv[1:] if args is None else args
        return say(error.format_message().rstrip(".") + _got(error, words) + hint, error.exit_code)
    except typer.Abort:
        return say("interrupted", 130)
    except OSError as error:
        return _operating_system(error)
    except Exception:  # the traceback is the message of what nobody foresaw
        traceback.print_exc()
        return 1
    if code == 130:
        return say("interrupted", 130)
    return code if isinstance(code, int) else 0


def _got(error: TyperException, words: Sequence[str]) -> str:
    """The value that an option refused, which Typer's message of a number leaves out."""
    options = getattr(getattr(error, "param", None), "opts", ())
    for word, after in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        value = value if equals else after
        if option in options and value and value not in error.format_message():
            return f", got {value!r}"
    return ""


def say(message: str, code: int) -> int:
    """One line on stderr; gives `code`."""
    print(f"ups: {' '.join(message.split())}", file=sys.stderr)
    return code


def console() -> Console:
    """stdout; a file or a pipe gets wide lines, so that no table is cut."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


@contextmanager
def counting(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with rate and remaining time; gives what to call with (done, wanted)."""
    bar = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(label, total=None, rate="")

    def count(done: int, wanted: int) -> None:
        # not before: what is refused before anything is done is one line, and no empty bar
        bar.start()
        seconds = bar.tasks[task].elapsed or 0.0
        rate = f"{done / seconds:.1f} {unit}/s" if seconds > 0 else ""
        bar.update(task, completed=done, total=wanted, rate=rate)

    try:
        yield count
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def training() -> Iterator[Callable[[Progress], None]]:
    """What to report a run's progress to: a bar on a terminal, one line for each validation elsewhere."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield _print_validation
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  nRMSE {task.fields[score]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=screen) as bars:
        tasks: dict[str, Any] = {}

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=1.0, epoch=0, loss="–", score="–")
            shown: dict[str, Any] = {"epoch": progress.epoch, "loss": f"{progress.train_loss:.3g}"}
            if progress.score is not None:
                shown["score"] = f"{progress.score:.4g}"
            bars.update(tasks[progress.stage], completed=progress.share, **shown)

        yield report


def _print_validation(progress: Progress) -> None:
    if progress.score is not None:
        print(
            f"{progress.stage} {progress.share:6.1%}  epoch {progress.epoch}  loss {progress.train_loss:.4g}  "
            f"rollout_nrmse {progress.score:.4g}  {progress.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _operating_system(error: OSError) -> int:
    # of a file that was to be renamed the name that was asked for
    name = error.filename2 or error.filename
    where = f"{name}: " if name else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return say(f"{where}no permission ({error.strerror})", 2)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG):
        return say(f"{where}{error.strerror}; choose another path", 2)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return say(f"{where}{error.strerror}; nothing was kept under the final name", 1)
    traceback.print_exc()
    return 1

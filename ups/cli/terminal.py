"""What every command shares: exit codes, one-line errors, where to print."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise

import typer
from rich.console import Console
from typer.exceptions import TyperException

from ups.core.errors import UserError


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


def can_redraw(screen: Console) -> bool:
    """Whether a bar or a panel can be kept up to date there: on a terminal that is not dumb. Elsewhere progress is
    told in lines, also where colours were asked for (FORCE_COLOR)."""
    return screen.is_interactive and not screen.is_dumb_terminal and screen.file.isatty()


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

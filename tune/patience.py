"""Storage that refuses to be written for a while: a full disk, a file server that restarts, a read-only mount."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ups.core.errors import UserError
from ups.core.objects import StoreDenied, StoreUnreachable

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""how long a refusal is waited out: somebody may make room, or the server be back"""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 16.0
_LONG_SECONDS = 60.0
"""what is refused only after so much work was not refused before: patience begins anew"""
_REFUSALS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EREMOTEIO,
    }
)


class StorageRefused(Exception):
    """Storage was not to be written for `PATIENCE_SECONDS`, or a store behind a URI did not answer for as long as it
    waits itself, or does not take the credentials any more: no fault of whoever wanted to write."""

    def __init__(self, error: OSError | StoreDenied) -> None:
        if isinstance(error, StoreUnreachable | StoreDenied):
            super().__init__(str(error))
        else:
            super().__init__(f"{_in_words(error)}, for {PATIENCE_SECONDS:.0f} s; make room or mend the storage")


def patiently(act: Callable[[], T]) -> T:
    """What `act` gives; when storage refuses, it is called again after a pause, each twice as long up to a bound.

    Raises:
        StorageRefused: all pauses together would be longer than `PATIENCE_SECONDS`, or it is a store behind a URI,
            which has its own patience, and may have ceased to let us in. Any other error passes through.
    """
    pause, waited = _FIRST_PAUSE_SECONDS, 0.0
    while True:
        begin = time.monotonic()
        try:
            return act()
        except (StoreUnreachable, StoreDenied) as error:
            raise StorageRefused(error) from error
        except (OSError, UserError) as error:
            refusal = _refusal_of(error)
            if refusal is None:
                raise
        if time.monotonic() - begin > _LONG_SECONDS:
            pause, waited = _FIRST_PAUSE_SECONDS, 0.0
        if waited + pause > PATIENCE_SECONDS:
            raise StorageRefused(refusal) from refusal
        warnings.warn(f"{_in_words(refusal)}; trying again in {pause:g} s", stacklevel=2)
        time.sleep(pause)
        pause, waited = min(2 * pause, _LONGEST_PAUSE_SECONDS), waited + pause


def _refusal_of(error: Exception) -> OSError | None:
    """The refusal behind an error, which a store has put into words of its own; None for any other."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return cause if isinstance(cause, OSError) and cause.errno in _REFUSALS else None


def _in_words(error: OSError) -> str:
    return f"{error.filename or 'storage'}: {error.strerror}"


def append(path: Path, content: bytes) -> None:
    """Add whole lines to a file, patiently: what is written of them before a refusal is taken back.

    Raises:
        StorageRefused: as `patiently`.
    """

    def write() -> None:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(file).st_size
            try:
                written = 0
                while written < len(content):
                    written += os.write(file, content[written:])
            except OSError:
                os.ftruncate(file, before)
                raise
        finally:
            os.close(file)

    patiently(write)

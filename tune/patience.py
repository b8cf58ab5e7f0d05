"""Storage that refuses to be written for a while: a full disk, a file server that restarts, a read-only mount."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ups.core.objects import StoreUnreachable

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""how long a refusal is waited out: somebody may make room, or the server be back"""
_FIRST_PAUSE_SECONDS = 0.5
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
    waits itself: no fault of whoever wanted to write."""

    def __init__(self, error: OSError) -> None:
        if isinstance(error, StoreUnreachable):
            super().__init__(str(error))
        else:
            super().__init__(f"{_in_words(error)}, for {PATIENCE_SECONDS:.0f} s; make room or mend the storage")


def patiently(act: Callable[[], T]) -> T:
    """What `act` gives; when storage refuses, it is called again after a pause, which doubles each time.

    Raises:
        StorageRefused: all pauses together would be longer than `PATIENCE_SECONDS`, or it is a store behind a URI,
            which has its own patience. Any other error passes through.
    """
    pause, waited = _FIRST_PAUSE_SECONDS, 0.0
    while True:
        try:
            return act()
        except StoreUnreachable as error:
            raise StorageRefused(error) from error
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            if waited + pause > PATIENCE_SECONDS:
                raise StorageRefused(error) from error
            what = _in_words(error)
        warnings.warn(f"{what}; trying again in {pause:g} s", stacklevel=2)
        time.sleep(pause)
        pause, waited = 2 * pause, waited + pause


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

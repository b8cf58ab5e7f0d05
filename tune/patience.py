"""Storage that refuses to be written for a while: a full disk, a file server that restarts, a read-only mount."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
    """Storage was not to be written for `PATIENCE_SECONDS`: no fault of whoever wanted to write."""

    def __init__(self, error: OSError) -> None:
        self.what = f"{error.filename or 'storage'}: {error.strerror}"
        super().__init__(f"{self.what}, for {PATIENCE_SECONDS:.0f} s; make room or mend the storage")


def patiently(act: Callable[[], T]) -> T:
    """What `act` gives; when storage refuses, it is called again after a pause, which doubles each time.

    Raises:
        StorageRefused: all pauses together would be longer than `PATIENCE_SECONDS`. Any other error passes through.
    """
    pause, waited = _FIRST_PAUSE_SECONDS, 0.0
    while True:
        try:
            return act()
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            refused = StorageRefused(error)
            if waited + pause > PATIENCE_SECONDS:
                raise refused from error
        warnings.warn(f"{refused.what}; trying again in {pause:g} s", stacklevel=2)
        time.sleep(pause)
        pause, waited = 2 * pause, waited + pause


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

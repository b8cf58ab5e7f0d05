"""The checkpoints of a stage that is being trained, copied to where other machines find them.

A thread looks for new ones and uploads them, so that training does not wait. What it uploads is the folder as it was at
one moment, which is what a kill at that moment would have left: enough to go on from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ups.core.checkpoint import BEST, LAST
from ups.core.errors import UserError
from ups.core.leases import Lease

LOOK_SECONDS = 5.0
"""a lost machine costs the work since the last checkpoint, and at most this and an upload more"""
Fill = Callable[[Path], None]
Stamp = dict[str, tuple[int, int, int]]


class Mirror:
    """Keeps the latest checkpoints of a folder uploaded while a lease is held; at its end they stay, or go where the
    artifact itself is published."""

    def __init__(
        self, folder: Path, lease: Lease, upload: Callable[[Fill], object], discard: Callable[[], None]
    ) -> None:
        self._folder, self._lease, self._upload, self._discard = folder, lease, upload, discard
        self._uploaded: Stamp = {}
        self._warned, self._fails = False, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="checkpoints to the store", daemon=True)
        lease.at_end(self._stop)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """A store that cannot be reached costs nothing but the copy: the next look tries again."""
        try:
            if _stamp(self._folder) != self._uploaded and not self._lease.is_lost:
                self._upload(self._copy)
            self._fails = False
        except (OSError, UserError) as error:
            self._fails = True
            if not self._warned:
                warnings.warn(f"the checkpoints of {self._folder} are not in the store: {error}", stacklevel=1)
            self._warned = True

    def _copy(self, to: Path) -> None:
        """The files of one moment: each was still there when the last of them was opened."""
        while True:
            with contextlib.ExitStack() as stack:
                stamp = _stamp(self._folder)
                opened: dict[str, IO[bytes]] = {}
                with contextlib.suppress(FileNotFoundError):
                    for name in stamp:
                        opened[name] = stack.enter_context(open(self._folder / name, "rb"))
                if len(opened) < len(stamp) or _stamp(self._folder) != stamp:
                    continue
                for name, stream in opened.items():
                    with open(to / name, "wb") as out:
                        shutil.copyfileobj(stream, out)
                self._uploaded = stamp
                return

    def _stop(self, published: bool) -> None:
        self._end.set()
        self._thread.join()
        if not published:
            if not self._fails:  # else whoever waits for the lease to be given back would wait for the server, too
                self._look()
            return
        with contextlib.suppress(OSError, UserError):  # a collection takes what stays
            self._discard()


def _stamp(folder: Path) -> Stamp:
    """What changes whenever a checkpoint is replaced; their copies are for the same disk, and stay there."""
    found: Stamp = {}
    for name in (BEST, LAST):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(folder / name)
            found[name] = status.st_ino, status.st_size, status.st_mtime_ns
    return found

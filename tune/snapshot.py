"""Copies of a study's journal: what is left of a search when the disk that it lies on is gone.

In a store behind a URI, `studies/NAME/` gets `study.yaml` and `journal.log`; downloaded into an empty folder they are a
study that `ups search --resume` goes on with.
"""

from __future__ import annotations

import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

from ups.core.errors import UserError
from ups.core.objects import Objects
from ups.core.runtime import write_atomic

SNAPSHOT_SECONDS = 60.0
"""a journal is copied at most this often while it is searched, and at the end"""


class Snapshot:
    """Copies in the background, so that the search waits neither for a server nor for a disk."""

    def __init__(self, copy: Callable[[], None], place: str) -> None:
        """
        Args:
            copy: makes a copy of what is there now; it may fail with OSError or UserError.
            place: where copies are, in words.
        """
        self._copy_now, self._place = copy, place
        self._copied = time.monotonic()
        self._thread: threading.Thread | None = None

    def copy_if_due(self) -> None:
        """Begin a copy if the last one is `SNAPSHOT_SECONDS` old; called whenever something may have changed."""
        if time.monotonic() - self._copied > SNAPSHOT_SECONDS and (self._thread is None or not self._thread.is_alive()):
            self._copied = time.monotonic()
            self._thread = threading.Thread(target=self._copy, name="snapshot of the study", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Copy what there is at the end."""
        if self._thread is not None:
            self._thread.join()
        self._copy()

    def _copy(self) -> None:
        try:
            self._copy_now()
        except (OSError, UserError) as error:
            # the study itself is where its driver writes it
            warnings.warn(f"no snapshot of the study in {self._place}: {error}", stacklevel=1)


def snapshot_in_store(study: Path, journal: Path, objects: Objects) -> Snapshot:
    there = f"studies/{name_in_store(study)}"
    files = {f"{there}/study.yaml": study / "study.yaml", f"{there}/journal.log": journal}

    def copy() -> None:
        for name, path in files.items():
            objects.write(name, path.read_bytes())

    return Snapshot(copy, "its store")


def name_in_store(study: Path) -> str:
    """What a study is called among others that share its store: its folder may have the same path on two machines."""
    path = study / ".name-in-store"
    if not path.is_file():
        write_atomic(path, f"{study.absolute().name}-{uuid.uuid4().hex[:8]}".encode())
    return path.read_text()

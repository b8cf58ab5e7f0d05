"""A copy of a study's journal in its store: what is left of a search when the disk of its driver is gone.

In a store behind a URI, `studies/NAME/` gets `study.yaml` and `journal.log`; downloaded into an empty folder they are a
study that `ups search --resume` goes on with.
"""

from __future__ import annotations

import threading
import time
import uuid
import warnings
from pathlib import Path

from tune.storage import SNAPSHOT_SECONDS
from ups.core.errors import UserError
from ups.core.objects import Objects
from ups.core.runtime import write_atomic


def name_in_store(study: Path) -> str:
    """What a study is called among others that share its store: its folder may have the same path on two machines."""
    path = study / ".name-in-store"
    if not path.is_file():
        write_atomic(path, f"{study.absolute().name}-{uuid.uuid4().hex[:8]}".encode())
    return path.read_text()


class Snapshot:
    """Copies in the background, so that the search does not wait for a server."""

    def __init__(self, study: Path, journal: Path, objects: Objects) -> None:
        self._objects = objects
        there = f"studies/{name_in_store(study)}"
        self._files = {f"{there}/study.yaml": study / "study.yaml", f"{there}/journal.log": journal}
        self._copied = time.monotonic()
        self._thread: threading.Thread | None = None

    def copy_if_due(self) -> None:
        """Begin a copy if the last one is `SNAPSHOT_SECONDS` old."""
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
            for name, path in self._files.items():
                self._objects.write(name, path.read_bytes())
        except (OSError, UserError) as error:
            # the study itself is on the driver's disk
            warnings.warn(f"no snapshot of the study in its store: {error}", stacklevel=1)

"""The disk that a search takes: what nobody needs any more goes before it is full."""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tune.objectives import foremost
from tune.pinning import pin_study
from tune.running import Running
from tune.sizes import shown_size
from tune.study import StudyFolder, TrialRecord
from tune.trial import run_folder
from ups.core.artifacts import ArtifactStore, folder_bytes
from ups.core.errors import UserError
from ups.core.store import Store

TRIM_SECONDS, COLLECT_SECONDS, SHARE = 2.0, 10.0, 0.05
"""how often, at most, checkpoints and the store are seen to while a search runs, and which share of the time each of
the two may take"""


class Housekeeper:
    """Keeps the store of a search, if it is a folder, and the checkpoints of its ended trials within a size each.

    Results, curves and configs of trials stay, and so does everything that belongs to the base, to the best trials and
    to those on their way. The rest goes in the order in which it was used or ended last.
    """

    def __init__(
        self, study: StudyFolder, store: Store, limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            study: its trials may be missing.
            limit: bytes.
        """
        self._study, self._store, self._limit, self._clock = study, store, limit, clock
        self._trim_due, self._collection_due = clock() + TRIM_SECONDS, clock() + COLLECT_SECONDS
        self._sizes: dict[int, int] = {}
        """trial -> bytes of its checkpoints, once it has ended"""
        self._thread: threading.Thread | None = None
        self._has_warned = False

    def tidy_if_due(self, records: Mapping[int, TrialRecord], running: Iterable[Running]) -> None:
        """Begin to tidy in the background, if the last time is long ago and is over.

        Args:
            records: of all trials that have ended.
            running: trials on their way, or waiting for a worker.
        """
        due = min(self._trim_due, self._collection_due)
        if self._clock() < due or (self._thread is not None and self._thread.is_alive()):
            return
        study = replace(self._study, trials=tuple(records.values()))
        keys = {key for each in running for key in each.keys.values()}
        self._thread = threading.Thread(target=self._tidy, args=(study, keys), name="housekeeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for what goes on."""
        if self._thread is not None:
            self._thread.join()

    def _tidy(self, study: StudyFolder, keys: Collection[str]) -> None:
        begin = self._clock()
        try:
            self._trim(study)
            trimmed = self._clock()
            self._trim_due = trimmed + max(TRIM_SECONDS, (trimmed - begin) / SHARE)
            if trimmed >= self._collection_due:
                self._collect(study, keys)
                end = self._clock()
                self._collection_due = end + max(COLLECT_SECONDS, (end - trimmed) / SHARE)
        except (OSError, UserError) as error:
            # the search goes on while there is room, and the next time comes
            self._trim_due = self._collection_due = self._clock() + COLLECT_SECONDS
            warnings.warn(f"the disk is not kept tidy: {error}", stacklevel=2)

    def _collect(self, study: StudyFolder, keys: Collection[str]) -> None:
        if not isinstance(self._store, ArtifactStore):
            return
        pin_study(study, self._store, keys)
        found = self._store.gc(self._limit)
        if not found.fits and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self._store}: {shown_size(found.bytes_protected)} are needed, more than "
                f"{shown_size(self._limit)}; give the search more with resources.disk",
                stacklevel=2,
            )

    def _trim(self, study: StudyFolder) -> None:
        needed = {record.number for record in foremost(study.trials, study.config)} | {0}
        for record in study.trials:
            if record.number not in self._sizes:
                self._sizes[record.number] = folder_bytes(self._checkpoints(record.number))
        total = sum(self._sizes.values())
        for number in sorted(self._sizes):
            if total <= self._limit:
                return
            if number not in needed and self._sizes[number]:
                shutil.rmtree(self._checkpoints(number), ignore_errors=True)
                total -= self._sizes[number]
                self._sizes[number] = 0

    def _checkpoints(self, number: int) -> Path:
        return run_folder(self._study.path, number) / "checkpoints"

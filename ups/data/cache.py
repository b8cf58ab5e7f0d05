"""Arrays that were reduced from large files once, kept as `.npy` and opened as memory maps."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ups.core.runtime import write_atomic

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class Reduced:
    """A reduced array and what was computed while it streamed by."""

    fields_STXC: Array32
    """a read-only memory map, or an array where the cache folder could not be written"""
    content: str
    """sha256 of shape and bytes"""
    facts: dict[str, Any]
    """what `Rows.facts` had to say; JSON-able"""


class Rows(Protocol):
    """Where the rows of an array come from; may be gone through more than once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """of the whole array"""
        ...

    def __iter__(self) -> Iterator[Array32]:
        """shape[0] arrays of shape[1:]."""
        ...

    def facts(self) -> dict[str, Any]:
        """What was learned of the rows while they went by; JSON-able, asked when all of them have."""
        ...


def file_identity(path: Path) -> list[str | int]:
    """What changes when a file changes, without reading it: resolved path, size, time of change."""
    resolved = path.resolve()
    status = resolved.stat()
    return [str(resolved), status.st_size, status.st_mtime_ns]


def load_reduced(key: str, rows: Rows, folder: Path) -> Reduced:
    """The array cached under `key`, or the one that `rows` gives, which is then cached.

    Of the processes that want a key at the same time one reduces it and the others wait; what is published is complete,
    by renaming, also where locks are not known and several do the work.
    Where the folder cannot be written (read-only, full) the array is kept in memory, with a warning.
    """
    array_path, facts_path = folder / f"{key}.npy", folder / f"{key}.json"
    found = _open(array_path, facts_path, rows.shape)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{key}.lock"):
            return _open(array_path, facts_path, rows.shape) or _fill_file(array_path, facts_path, rows)
    except OSError as error:
        warnings.warn(
            f"{folder}: cannot cache the reduced data ({error.strerror or error}), it stays in memory; "
            "UPS_CACHE names another folder",
            stacklevel=2,
        )
        return _fill_memory(rows)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine, and its threads; the lock of a process that dies is free."""
    with open(path, "w") as stream:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # who comes too late for this file finds the array, or makes it as if there were no lock
            path.unlink(missing_ok=True)


def _open(array_path: Path, facts_path: Path, shape: tuple[int, ...]) -> Reduced | None:
    try:
        stored = json.loads(facts_path.read_text())
        fields_STXC = np.load(array_path, mmap_mode="r")
    except (OSError, ValueError):
        # not there, or cut short by a full disk or a crash of the machine: reduced again
        return None
    if fields_STXC.shape != shape or fields_STXC.dtype != np.float32 or "content" not in stored:
        return None
    return Reduced(fields_STXC, stored["content"], stored["facts"])


def _fill_file(array_path: Path, facts_path: Path, rows: Rows) -> Reduced:
    temporary = array_path.with_name(f".{array_path.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            # open_memmap would count every written page as this process's memory
            header = {"descr": "<f4", "fortran_order": False, "shape": rows.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            digest = _digest(rows.shape)
            for row in rows:
                data = np.ascontiguousarray(row, dtype="<f4").tobytes()
                digest.update(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, array_path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    # the facts come last: they say that the array is complete
    content, facts = digest.hexdigest(), rows.facts()
    write_atomic(facts_path, json.dumps({"content": content, "facts": facts}).encode())
    return Reduced(np.load(array_path, mmap_mode="r"), content, facts)


def _fill_memory(rows: Rows) -> Reduced:
    fields_STXC = np.empty(rows.shape, np.float32)
    digest = _digest(rows.shape)
    for number, row in enumerate(rows):
        fields_STXC[number] = row
        digest.update(np.ascontiguousarray(row, dtype="<f4").tobytes())
    return Reduced(fields_STXC, digest.hexdigest(), rows.facts())


def _digest(shape: tuple[int, ...]) -> Any:
    return hashlib.sha256(json.dumps(shape).encode())

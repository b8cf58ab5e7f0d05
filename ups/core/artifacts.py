"""The artifact store: finished results, each in a folder named by what determines it.

A folder is filled under a temporary name and renamed when it is complete, so that a reader sees all of it or nothing.
Two that publish the same artifact did the same work: the second discards its copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ups.core.errors import DataError
from ups.core.runtime import write_atomic

MANIFEST = "manifest.json"


class ArtifactStore:
    """A folder of artifacts, safe for several processes of one machine or one shared file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """The folder of a published artifact, None if there is none.

        Raises:
            DataError: a file of it is missing or not what was published.
        """
        folder = self._folder(key)
        try:
            checksums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, KeyError):
            raise DataError(f"{folder}: damaged artifact, {MANIFEST} cannot be read; delete the folder") from None
        for name, checksum in checksums.items():
            file = folder / name
            if not file.is_file() or _sha256(file) != checksum:
                raise DataError(f"{folder}: damaged artifact, {name} is not what was published; delete the folder")
        return folder

    def publish(self, key: str, fill: Callable[[Path], None]) -> Path:
        """The folder of artifact `key`: the one that is there, or a new one that `fill` writes into."""
        found = self.find(key)
        if found is not None:
            return found
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:12]}.", dir=folder.parent))
        try:
            fill(temporary)
            files = sorted(file for file in temporary.rglob("*") if file.is_file())
            checksums = {str(file.relative_to(temporary)): _sha256(file, flush=True) for file in files}
            # last: an artifact is one that has its manifest
            write_atomic(temporary / MANIFEST, json.dumps({"key": key, "sha256": checksums}, indent=1).encode())
            with contextlib.suppress(OSError):  # somebody else was first
                os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        published = self.find(key)
        assert published is not None
        return published

    def _folder(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.root / digest[:2] / digest


def _sha256(file: Path, *, flush: bool = False) -> str:
    with open(file, "rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()

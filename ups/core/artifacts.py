"""The artifact store: finished results, each in a folder named by what determines it, made once and kept within a size.

A folder is filled under a temporary name and renamed when it is complete, so that a reader sees all of it or nothing.
Two that publish the same artifact did the same work: the second discards its copy. That they rarely do is what the
leases are for (`ups.core.leases`).

ab/ab12.../     an artifact, named by the sha256 of its key, with `manifest.json`; last used when that was touched
ab/.ab12.../    one that is being written
leases/         who makes what right now
pins/           what is never removed, and for whose sake
trash/          what is being removed
damaged/        what was found damaged, until the next collection
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups.core.errors import DataError, StageBusy
from ups.core.leases import Lease, Leases
from ups.core.runtime import write_atomic

MANIFEST = "manifest.json"
HALF_WRITTEN_SECONDS = 3600.0
"""a temporary folder in which nothing was written for so long belongs to nobody"""
_OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{12}\.[0-9a-f]{32}")
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 2.0


@dataclass(frozen=True)
class Artifact:
    """What is known of a published artifact without reading it."""

    key: str
    what: str
    """kind of artifact, such as `operator` or `latents`"""
    bytes: int
    seconds: float
    """what it took to make"""
    created: float
    """Unix time, as `last_used`"""
    last_used: float
    pinned: bool
    leased: bool
    """somebody makes it anew, or works with it"""
    folder: Path

    @property
    def is_protected(self) -> bool:
        """Whether it is never removed."""
        return self.pinned or self.leased


@dataclass(frozen=True)
class GcResult:
    """What a collection removed, or would remove."""

    removed: tuple[Artifact, ...]
    """the least recently used first"""
    bytes_before: int
    bytes_after: int
    bytes_protected: int
    """of pinned and leased artifacts, and of those that are being written"""
    max_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the store is as small as was asked for; if not, what is left is protected."""
        return self.bytes_after <= self.max_bytes


class ArtifactStore:
    """A folder of artifacts, safe for several processes of one machine or one shared file system."""

    def __init__(self, root: Path, leases: Leases | None = None) -> None:
        """`leases` are by default those in the store's own folder."""
        self.root = root
        self.leases = leases or Leases(root / "leases")

    @property
    def is_there(self) -> bool:
        """Whether anything was ever put here."""
        return any(self._entries()) or (self.root / "leases").is_dir() or (self.root / "pins").is_dir()

    def has(self, key: str) -> bool:
        """Whether an artifact is published; neither its files are read nor does it count as used."""
        return (self._folder(key) / MANIFEST).is_file()

    def find(self, key: str) -> Path | None:
        """The folder of a published artifact, None if there is none. It counts as used.

        A collection may remove it at any time, unless it is protected: who reads it must be ready for a
        FileNotFoundError. A damaged one, of which a file is missing or not what was published, is put aside with a
        warning: then there is none, and it is made anew.

        Raises:
            DataError: a damaged one cannot be put aside.
        """
        folder = self._folder(key)
        damage = _damage(folder)
        # read while it was removed, and perhaps published again: what is there at last counts
        while damage is not None and damage != (again := _damage(folder)):
            damage = again
        if damage is not None:
            self._put_aside(folder, damage)
            return None
        try:
            os.utime(folder / MANIFEST)
        except FileNotFoundError:
            return None
        except OSError:  # somebody else's store, which can be read
            pass
        return folder

    def publish(
        self, key: str, fill: Callable[[Path], None], *, what: str = "artifact", seconds: float | None = None
    ) -> Path:
        """The folder of artifact `key`: the one that is there, or a new one that `fill` writes into.

        Args:
            key: what determines the content.
            fill: writes the files into the folder that it is given.
            what: kind of artifact.
            seconds: what the content took to make; None is the time that `fill` takes.
        """
        found = self.find(key)
        if found is not None:
            return found
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name[:12]}.{uuid.uuid4().hex}")
        temporary.mkdir()
        start = time.perf_counter()
        try:
            fill(temporary)
            took = time.perf_counter() - start if seconds is None else seconds
            # last: an artifact is one that has its manifest
            write_atomic(temporary / MANIFEST, json.dumps(_manifest(temporary, key, what, took), indent=1).encode())
            _flush(temporary)
            try:
                os.rename(temporary, folder)
            except OSError:
                if not self.has(key):  # else somebody else was first
                    raise
            _flush(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def claim(
        self, key: str, what: str, *, folder: Path | None = None, reads: Sequence[str] = (), wait: bool = True
    ) -> Lease | None:
        """The right to make a missing artifact; None if it is published by now.

        Args:
            key: of the artifact.
            what: kind of artifact.
            folder: where the maker keeps its checkpoints, for others to go on from.
            reads: keys of artifacts that the maker has open meanwhile: no collection removes them.
            wait: until whoever else makes it is done, or dead.

        Raises:
            StageBusy: somebody else makes it, and `wait` is false.
        """
        while True:
            self.wait_for(key, what, wait=wait)
            if self.has(key):
                return None
            lease = self.leases.acquire(_digest(key), key, what, folder, reads)
            if lease is not None:
                if not self.has(key):
                    return lease
                # published between the two looks
                lease.settle()
                lease.release()

    def wait_for(self, key: str, what: str, *, wait: bool = True) -> None:
        """Return when an artifact is published, or nobody makes it: its maker may have given up, or died.

        Raises:
            StageBusy: somebody makes it, and `wait` is false.
        """
        pause = _FIRST_WAIT_SECONDS
        while not self.has(key) and self.is_busy(key):
            if not wait:
                raise StageBusy(what, key)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT_SECONDS)

    def is_busy(self, key: str) -> bool:
        """Whether somebody makes the artifact right now. Asked now and then, it tells when a holder has died."""
        return self.leases.is_held(_digest(key))

    def pin(self, owner: str, keys: Collection[str]) -> None:
        """From now on `owner` needs exactly these artifacts, present or not: no collection removes them."""
        path = self.root / "pins" / f"{_digest(owner)[:16]}.json"
        if keys:
            write_atomic(path, json.dumps({"owner": owner, "keys": sorted(keys)}, indent=1).encode())
        else:
            path.unlink(missing_ok=True)

    def pins(self) -> dict[str, set[str]]:
        """Owner -> keys that it needs.

        Raises:
            DataError: a pin cannot be read; nobody knows what it protects.
        """
        found = {}
        for path in sorted((self.root / "pins").glob("*.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                found[str(data["owner"])] = set(data["keys"])
            except FileNotFoundError:  # unpinned this moment
                continue
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}: damaged, it cannot be told what it protects; delete the file") from None
        return found

    def pinned(self) -> set[str]:
        """Keys that somebody needs."""
        return set().union(*self.pins().values())

    def ls(self) -> list[Artifact]:
        """Every published artifact, the least recently used first."""
        pinned = {_digest(key) for key in self.pinned()}
        leased = {_digest(key) for holder in self.leases.held() for key in (holder.key, *holder.reads)}
        found = []
        for folder in self._entries():
            if not folder.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # removed this moment
                    found.append(_artifact(folder, folder.name in pinned, folder.name in leased))
        return sorted(found, key=lambda artifact: (artifact.last_used, artifact.key))

    def gc(self, max_bytes: int, *, dry_run: bool = False) -> GcResult:
        """Remove the least recently used artifacts that nobody needs until the store has at most `max_bytes`.

        What is pinned or leased stays, and what is being written; rests of killed processes always go. With `dry_run`
        nothing is removed.
        """
        if not dry_run:
            self._clear_rests()
        artifacts = self.ls()
        writing = sum(_size(path) for path in self._entries() if path.name.startswith(".") and not _is_rest(path))
        size = before = writing + sum(artifact.bytes for artifact in artifacts)
        removed = []
        for artifact in artifacts:
            if size <= max_bytes:
                break
            if not artifact.is_protected and (dry_run or self._remove(artifact)):
                removed.append(artifact)
                size -= artifact.bytes
        protected = writing + sum(artifact.bytes for artifact in artifacts if artifact.is_protected)
        return GcResult(tuple(removed), before, size, protected, max_bytes)

    def _remove(self, artifact: Artifact) -> bool:
        """False if somebody began to use it meanwhile, or has removed it."""
        try:
            if (artifact.folder / MANIFEST).stat().st_mtime != artifact.last_used:
                return False
            # out of the way at once: a reader finds all of it or nothing
            trash = self.root / "trash" / uuid.uuid4().hex
            trash.parent.mkdir(exist_ok=True)
            os.rename(artifact.folder, trash)
        except FileNotFoundError:
            return False
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def _put_aside(self, folder: Path, damage: str) -> None:
        """Of several that find it damaged at once, one does."""
        aside = self.root / "damaged" / f"{folder.name[:12]}.{uuid.uuid4().hex}"
        try:
            aside.parent.mkdir(exist_ok=True)
            os.rename(folder, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{folder}: damaged artifact, {damage}; delete the folder ({error.strerror})") from None
        warnings.warn(
            f"{folder}: damaged artifact, {damage}; it is made anew, what was there is in {aside}", stacklevel=3
        )

    def _clear_rests(self) -> None:
        for path in (*(self.root / "trash").glob("[0-9a-f]" * 32), *(self.root / "damaged").glob("*.*")):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._entries():
            if path.name.startswith(".") and _is_rest(path):
                shutil.rmtree(path, ignore_errors=True)
        self.leases.sweep({path.name for path in self._entries()})

    def _entries(self) -> Iterator[Path]:
        """Artifacts, and those that are being written; whatever else lies in the folder is not ours."""
        for group in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            yield from (path for path in sorted(group.iterdir()) if _OURS.fullmatch(path.name))

    def _folder(self, key: str) -> Path:
        digest = _digest(key)
        return self.root / digest[:2] / digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest(folder: Path, key: str, what: str, seconds: float) -> dict[str, Any]:
    """What is in the folder; its files are on the disk afterwards, and not only in memory."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    checksums = {str(file.relative_to(folder)): _sha256(file, flush=True) for file in files}
    size = sum(file.stat().st_size for file in files)
    facts = {"key": key, "what": what, "seconds": round(seconds, 3), "bytes": size, "created": time.time()}
    return facts | {"sha256": checksums}


def _damage(folder: Path) -> str | None:
    """What is wrong with an artifact; None if nothing is, or if it is not there."""
    try:
        checksums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError):
        return f"{MANIFEST} cannot be read"
    for name, checksum in checksums.items():
        try:
            whole = _sha256(folder / name) == checksum
        except FileNotFoundError:
            whole = False
        if not whole:
            return f"{name} is not what was published"
    return None


def _artifact(folder: Path, pinned: bool, leased: bool) -> Artifact:
    """Raises FileNotFoundError if the artifact is gone. Of one whose manifest says less, only the size is known."""
    path = folder / MANIFEST
    used = path.stat().st_mtime
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        what, created = facts["what"], facts["created"]
        return Artifact(facts["key"], what, facts["bytes"], facts["seconds"], created, used, pinned, leased, folder)
    except (ValueError, KeyError, TypeError):
        return Artifact(folder.name, "unknown", _size(folder), 0.0, used, used, pinned, leased, folder)


def _is_rest(folder: Path) -> bool:
    """Whether nobody has written into a temporary folder for long."""
    times = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return bool(times) and time.time() - max(times) > HALF_WRITTEN_SECONDS


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _flush(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sha256(file: Path, *, flush: bool = False) -> str:
    with open(file, "rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()

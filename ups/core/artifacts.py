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
import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ups.core.errors import DataError, UserError
from ups.core.leases import Lease, Leases
from ups.core.runtime import sha256_of, write_atomic
from ups.core.store import MANIFEST, Artifact, Store, digest_of, disk_in_words, pin_from_json, pin_to_json

HALF_WRITTEN_SECONDS = 3600.0
"""a temporary folder in which nothing was written for so long belongs to nobody"""
_OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{12}\.[0-9a-f]{32}")


class ArtifactStore(Store):
    """A folder of artifacts, safe for several processes of one machine or one shared file system."""

    def __init__(self, root: Path, leases: Leases | None = None, *, remedy: str = "choose another --store") -> None:
        """`leases` are by default those in the store's own folder; `remedy` is what helps where its disk is full."""
        self.root = root
        self.leases = leases or Leases(root / "leases")
        self._remedy = remedy

    def __str__(self) -> str:
        return str(self.root)

    @property
    def is_there(self) -> bool:
        return any(self._entries()) or (self.root / "leases").is_dir() or (self.root / "pins").is_dir()

    def check(self) -> None:
        """See that the place can be a folder, before a night is spent.

        Raises:
            UserError: a file is in the way.
        """
        for place in (self.root, *self.root.absolute().parents):
            if place.is_dir():
                return
            if place.exists():
                raise UserError(f"{place}: is a file, expected a folder for the store; {self._remedy}")

    def has(self, key: str) -> bool:
        return (self._folder(key) / MANIFEST).is_file()

    def find(self, key: str) -> Path | None:
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
        self,
        key: str,
        fill: Callable[[Path], None],
        *,
        what: str = "artifact",
        seconds: float | None = None,
        folder: Path | None = None,
    ) -> Path:
        found = self.find(key)
        if found is not None:
            return found
        with disk_in_words(self.root, self._remedy):
            return self._publish(key, fill, what, seconds, folder)

    def _publish(
        self, key: str, fill: Callable[[Path], None], what: str, seconds: float | None, made_in: Path | None
    ) -> Path:
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name[:12]}.{uuid.uuid4().hex}")
        temporary.mkdir()
        start = time.perf_counter()
        try:
            fill(temporary)
            took = time.perf_counter() - start if seconds is None else seconds
            # last: an artifact is one that has its manifest
            manifest = _manifest(temporary, key, what, took, made_in)
            write_atomic(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
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
        with disk_in_words(self.root, self._remedy):
            return super().claim(key, what, folder=folder, reads=reads, wait=wait)

    def pin(self, owner: str, keys: Collection[str]) -> None:
        path = self.root / "pins" / f"{digest_of(owner)[:16]}.json"
        if keys:
            write_atomic(path, pin_to_json(owner, keys))
        else:
            path.unlink(missing_ok=True)

    def pins(self) -> dict[str, set[str]]:
        found = {}
        for path in sorted((self.root / "pins").glob("*.json")):
            try:
                owner, keys = pin_from_json(path.read_bytes())
                found[owner] = keys
            except FileNotFoundError:  # unpinned this moment
                continue
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}: damaged, it cannot be told what it protects; delete the file") from None
        return found

    def ls(self) -> list[Artifact]:
        pinned = {digest_of(key) for key in self.pinned()}
        leased = {digest_of(key) for holder in self.leases.held() for key in (holder.key, *holder.reads)}
        found = []
        for folder in self._entries():
            if not folder.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # removed this moment
                    found.append(_artifact(folder, folder.name in pinned, folder.name in leased))
        return sorted(found, key=lambda artifact: (artifact.last_used, artifact.key))

    def _remove(self, artifact: Artifact) -> bool:
        folder = self._named(artifact.name)
        try:
            if (folder / MANIFEST).stat().st_mtime != artifact.last_used:
                return False
        except FileNotFoundError:
            return False
        return self._throw_away(folder)

    def discard(self, key: str) -> None:
        self._throw_away(self._folder(key))

    def _throw_away(self, folder: Path) -> bool:
        """False if there is none. It is out of the way at once: a reader finds all of it or nothing."""
        trash = self.root / "trash" / uuid.uuid4().hex
        try:
            trash.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, trash)
        except FileNotFoundError:
            return False
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def _put_aside(self, folder: Path, damage: str) -> None:
        """Of several that find it damaged at once, one does."""
        aside = self.root / "damaged" / f"{folder.name[:12]}.{uuid.uuid4().hex}"
        try:
            aside.parent.mkdir(exist_ok=True)
            self._name_maker(folder)
            os.rename(folder, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{folder}: damaged artifact, {damage}; delete the folder ({error.strerror})") from None
        warnings.warn(
            f"{folder}: damaged artifact, {damage}; it is made anew, what was there is in {aside}", stacklevel=3
        )

    def _name_maker(self, folder: Path) -> None:
        """To whoever makes a damaged artifact again."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # its manifest may be what is damaged
            facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if facts["folder"] is not None:
                self.leases.leave(folder.name, facts["key"], facts["what"], Path(facts["folder"]))

    def _clear_rests(self) -> None:
        for path in (*(self.root / "trash").glob("[0-9a-f]" * 32), *(self.root / "damaged").glob("*.*")):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._entries():
            if path.name.startswith(".") and _is_rest(path):
                shutil.rmtree(path, ignore_errors=True)
        self.leases.sweep({path.name for path in self._entries()})

    def _bytes_being_written(self) -> int:
        return sum(folder_bytes(path) for path in self._entries() if path.name.startswith(".") and not _is_rest(path))

    def _entries(self) -> Iterator[Path]:
        """Artifacts, and those that are being written; whatever else lies in the folder is not ours."""
        for group in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            yield from (path for path in sorted(group.iterdir()) if _OURS.fullmatch(path.name))

    def _folder(self, key: str) -> Path:
        return self._named(digest_of(key))

    def _named(self, name: str) -> Path:
        return self.root / name[:2] / name


def _manifest(folder: Path, key: str, what: str, seconds: float, made_in: Path | None) -> dict[str, Any]:
    """What is in the folder; its files are on the disk afterwards, and not only in memory."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    checksums = {str(file.relative_to(folder)): sha256_of(file, flush=True) for file in files}
    size = sum(file.stat().st_size for file in files)
    facts = {"key": key, "what": what, "seconds": round(seconds, 3), "bytes": size, "created": time.time()}
    return facts | {"folder": None if made_in is None else str(made_in.absolute()), "sha256": checksums}


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
            whole = sha256_of(folder / name) == checksum
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
        return Artifact(
            facts["key"], what, facts["bytes"], facts["seconds"], created, used, pinned, leased, folder.name
        )
    except (ValueError, KeyError, TypeError):
        return Artifact(folder.name, "unknown", folder_bytes(folder), 0.0, used, used, pinned, leased, folder.name)


def _is_rest(folder: Path) -> bool:
    """Whether nobody has written into a temporary folder for long."""
    times = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return bool(times) and time.time() - max(times) > HALF_WRITTEN_SECONDS


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder; what goes meanwhile counts as gone."""
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

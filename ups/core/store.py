"""What a store of artifacts is, wherever it lies: finished results, each made once, named by what determines it.

`ups.core.artifacts` has the one in a folder, `ups.core.remote_store` the one behind a URI.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ups.core.errors import StageBusy, UserError
from ups.core.leases import Lease, Leases

MANIFEST = "manifest.json"
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 2.0
_DISK = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full for this user (quota)",
    errno.EFBIG: "refusing a file of that size",
    errno.EIO: "failing",
}


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
    name: str
    """what it is called in the store: `digest_of` its key"""

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


class Store(ABC):
    """Artifacts that several processes share. `str` of one is where it lies, in words that may be shown."""

    leases: Leases

    @abstractmethod
    def __str__(self) -> str: ...

    @property
    @abstractmethod
    def is_there(self) -> bool:
        """Whether anything was ever put here."""

    @abstractmethod
    def check(self) -> None:
        """See that the place can be a store, before a night is spent.

        Raises:
            UserError: it cannot.
        """

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether an artifact is published; neither its files are read nor does it count as used."""

    @abstractmethod
    def find(self, key: str) -> Path | None:
        """The folder, on this machine, of a published artifact; None if there is none. It counts as used.

        A collection may remove it at any time, unless it is protected: who reads it must be ready for a
        FileNotFoundError. A damaged one, of which a file is missing or not what was published, is put aside with a
        warning: then there is none, and it is made anew, from its maker's checkpoints where those are left.

        Raises:
            DataError: a damaged one cannot be put aside.
        """

    @abstractmethod
    def publish(
        self,
        key: str,
        fill: Callable[[Path], None],
        *,
        what: str = "artifact",
        seconds: float | None = None,
        folder: Path | None = None,
    ) -> Path:
        """The folder of artifact `key`: the one that is there, or a new one that `fill` writes into.

        Args:
            key: what determines the content.
            fill: writes the files into the folder that it is given.
            what: kind of artifact.
            seconds: what the content took to make; None is the time that `fill` takes.
            folder: where its maker has its checkpoints: who finds the artifact damaged goes on from them.

        Raises:
            UserError: the disk is full, or fails; nothing is published.
        """

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
            UserError: the disk is full, or fails.
        """
        while True:
            self.wait_for(key, what, wait=wait)
            if self.has(key):
                return None
            lease = self.leases.acquire(digest_of(key), key, what, folder, reads)
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
        return self.leases.is_held(digest_of(key))

    @abstractmethod
    def pin(self, owner: str, keys: Collection[str]) -> None:
        """From now on `owner` needs exactly these artifacts, present or not: no collection removes them."""

    @abstractmethod
    def pins(self) -> dict[str, set[str]]:
        """Owner -> keys that it needs.

        Raises:
            DataError: a pin cannot be read; nobody knows what it protects.
        """

    def pinned(self) -> set[str]:
        """Keys that somebody needs."""
        return set().union(*self.pins().values())

    @abstractmethod
    def ls(self) -> list[Artifact]:
        """Every published artifact, the least recently used first."""

    def gc(self, max_bytes: int, *, dry_run: bool = False) -> GcResult:
        """Remove the least recently used artifacts that nobody needs until the store has at most `max_bytes`.

        What is pinned or leased stays, and what is being written; rests of killed processes always go. With `dry_run`
        nothing is removed.
        """
        if not dry_run:
            self._clear_rests()
        artifacts, writing = self.ls(), self._bytes_being_written()
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

    @abstractmethod
    def discard(self, key: str) -> None:
        """Remove an artifact that nobody needs any more, if there is one."""

    @abstractmethod
    def _clear_rests(self) -> None:
        """Remove what killed processes left, and what was put aside."""

    @abstractmethod
    def _bytes_being_written(self) -> int: ...

    @abstractmethod
    def _remove(self, artifact: Artifact) -> bool:
        """False if somebody began to use it meanwhile, or has removed it."""


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pin_to_json(owner: str, keys: Collection[str]) -> bytes:
    return json.dumps({"owner": owner, "keys": sorted(keys)}, indent=1).encode()


def pin_from_json(content: bytes) -> tuple[str, set[str]]:
    """Raises ValueError, KeyError or TypeError for what is none."""
    data = json.loads(content)
    return str(data["owner"]), set(data["keys"])


@contextlib.contextmanager
def disk_in_words(folder: Path, remedy: str) -> Iterator[None]:
    """A write that the disk refuses inside is told in one line.

    Raises:
        UserError: the disk is full, over a quota, limits the size of files, or fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        present = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path("/"))
        free = shutil.disk_usage(present).free / 2**30
        raise UserError(
            f"{folder}: the disk is {_DISK[error.errno]} ({error.strerror}; {free:.1f} GiB free), nothing was "
            f"published; free some space, or {remedy}"
        ) from error

"""Who is making an artifact right now, so that two that need the same one make it once.

A lease is a file in the store itself. It holds between the processes of one machine, between several drivers, and
between machines that share the file system, and needs neither a cluster nor a database: whoever can read an artifact
can see who is making it. The newest file in `leases/<name of the key>/` is the lease; its name is a number.

- To take a lease is to create the next number, which the file system lets exactly one succeed in (O_EXCL). A free
  lease and one whose holder is dead are taken in the same way. No file is renamed or removed for that, so an observer
  that was slow cannot take away the lease of one who was faster.
- A holder beats: a thread rewrites a counter in the file. A holder is dead when its process no longer lives (seen at
  once on the same machine), or when its counter stood still for `ttl_seconds` of the observer's own monotonic clock;
  the clocks of two machines are never compared.
- A holder that was suspended may find a higher number than its own: it has lost the lease.
- Files of those that gave up stay behind a new lease: they say in which folders checkpoints of unfinished work lie.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

BEAT_SECONDS = 5.0
TTL_SECONDS = 60.0
_HELD, _FREE = b"held", b"free"
_HEADER = 18
"""bytes of the first line: the state, the counter, a line break"""


class LeaseLost(Exception):
    """The holder was taken for dead, and another one makes the artifact."""


@dataclass(frozen=True)
class Holder:
    """What a lease says of the one who took it."""

    key: str
    what: str
    """kind of artifact, such as `operator`"""
    machine: str
    """process ids mean something only on the machine, and in the container, that gave them"""
    pid: int
    started: str
    """when the process started, in the machine's own count: process ids are used again"""
    folder: str | None
    """where its checkpoints lie"""
    reads: tuple[str, ...]
    """keys of artifacts that it has open while it works"""

    @property
    def is_gone(self) -> bool:
        """Whether its process is known not to live; False if this machine cannot know."""
        return self.machine == _machine() and _started(self.pid) != self.started


class Lease:
    """The right to make one artifact; a context manager that gives it back."""

    def __init__(self, path: Path, file: int, holder: Holder, remains: Sequence[Path], beat_seconds: float) -> None:
        self.remains = tuple(remains)
        """folders of earlier holders who did not finish, the latest first"""
        self._path, self._file, self._holder, self._beat_seconds = path, file, holder, beat_seconds
        self._beats, self._settled, self._released = 0, False, False
        self._end, self._lock = threading.Event(), threading.Lock()
        # a daemon: it must not keep a process alive whose work is over
        threading.Thread(target=self._beat_on, name=f"lease of {holder.what}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def is_lost(self) -> bool:
        """Whether another one has taken the lease meanwhile."""
        return _newest(self._path.parent) != self._path

    def check(self) -> None:
        """Raises LeaseLost if another one has taken the lease."""
        if self.is_lost:
            raise LeaseLost(f"{self._holder.what} is made by another process meanwhile")

    def settle(self) -> None:
        """The artifact is published: nobody has to go on from this holder's checkpoints, or from earlier ones."""
        self._settled = True

    def release(self) -> None:
        """Give the lease back; a second call does nothing."""
        # a forked child has a copy of this object, with its lock as it happened to be: the lease is its parent's
        if self._holder.pid != os.getpid():
            return
        with self._lock:
            if self._released:
                return
            self._released = True
            self._end.set()
            # the store may be gone, or its disk full: then the end of this process frees the lease
            with contextlib.suppress(OSError):
                if not self.is_lost:
                    self._give_back()
            os.close(self._file)

    def _give_back(self) -> None:
        if self._settled:
            for path in _generations(self._path.parent):
                path.unlink(missing_ok=True)
            self._path.parent.rmdir()
        else:
            os.pwrite(self._file, _header(_FREE, self._beats), 0)

    def _beat_on(self) -> None:
        while not self._end.wait(self._beat_seconds):
            with self._lock, contextlib.suppress(OSError):
                if self._released:
                    return
                self._beats += 1
                os.pwrite(self._file, _header(_HELD, self._beats), 0)
                os.fsync(self._file)  # another machine sees what the server has


class Leases:
    """The leases of one store.

    Args:
        root: folder of the lease files.
        beat_seconds: time between two beats of a holder.
        ttl_seconds: how long a counter may stand still before its holder counts as dead; several beats.
    """

    def __init__(self, root: Path, beat_seconds: float = BEAT_SECONDS, ttl_seconds: float = TTL_SECONDS) -> None:
        self.root, self._beat_seconds, self._ttl_seconds = root, beat_seconds, ttl_seconds
        self._watched: dict[Path, _Watch] = {}

    def acquire(
        self, name: str, key: str, what: str, folder: Path | None = None, reads: Sequence[str] = ()
    ) -> Lease | None:
        """The lease on `key`; None if a living holder has it.

        Args:
            name: of the key's folder below the root, 64 hexadecimal digits.
            key, what, folder, reads: see `Holder`.

        Raises:
            OSError: the store cannot be written.
        """
        place = self.root / name
        mine = None if folder is None else str(folder.absolute())
        holder = Holder(key, what, _machine(), os.getpid(), _started(os.getpid()), mine, tuple(reads))
        while True:
            newest = _newest(place)
            if newest is not None and self._is_live(newest):
                return None
            path = place / f"{_number(newest) + 1:08d}"
            file = _create(path, _header(_HELD, 0) + json.dumps(asdict(holder)).encode())
            if file is not None:
                return Lease(path, file, holder, _remains(place, path, mine), self._beat_seconds)

    def is_held(self, name: str) -> bool:
        """Whether a living holder has the lease.

        A holder that counts as dead is taken its lease: it may have taken long to find that out, and who asks next
        need not watch the counter anew.
        """
        newest = _newest(self.root / name)
        if newest is None or _read(newest)[0] == _FREE:
            return False
        if self._is_live(newest):
            return True
        with contextlib.suppress(OSError):  # a store that can only be read
            file = _create(newest.with_name(f"{_number(newest) + 1:08d}"), _header(_FREE, 0))
            if file is not None:
                os.close(file)
        return False

    def held(self) -> Iterator[Holder]:
        """Everybody who has a lease; one who may be dead on another machine still counts."""
        for place in _folders(self.root):
            newest = _newest(place)
            holder = None if newest is None or not self._is_live(newest) else _read(newest)[1]
            if holder is not None:
                yield holder

    def sweep(self, published: set[str]) -> None:
        """Remove what nobody holds and nobody can go on from: the artifact is published, or no folder is left."""
        for place in _folders(self.root):
            newest = _newest(place)
            if newest is not None and self._is_live(newest):
                continue
            if place.name in published or not any(folder.is_dir() for folder in _remains(place, None, None)):
                shutil.rmtree(place, ignore_errors=True)

    def _is_live(self, path: Path) -> bool:
        state, holder, stamp = _read(path)
        if state == _FREE or (holder is not None and holder.is_gone):
            self._watched.pop(path, None)
            return False
        watch = self._watched.get(path)
        if watch is None or watch.stamp != stamp:
            self._watched[path] = _Watch(stamp, time.monotonic())
            return True
        now = time.monotonic()
        # one long pause counts little: a virtual machine that was paused paused holder and observer together
        watch.quiet_seconds += min(now - watch.looked, self._ttl_seconds / 4)
        watch.looked = now
        return watch.quiet_seconds < self._ttl_seconds


@dataclass
class _Watch:
    """A counter under observation."""

    stamp: bytes
    looked: float
    quiet_seconds: float = 0.0


def _create(path: Path, content: bytes) -> int | None:
    """The new file, open; None if it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except (FileExistsError, FileNotFoundError):  # the latter: whoever had the lease removed its folder this moment
        return None
    os.write(file, content)
    os.fsync(file)
    return file


def _read(path: Path) -> tuple[bytes, Holder | None, bytes]:
    """State, holder and whole content; one that is being created, or was freed by an observer, has no holder."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return _FREE, None, b""
    try:
        data = json.loads(content[_HEADER:])
        holder = Holder(**{**data, "reads": tuple(data["reads"])})
    except (ValueError, KeyError, TypeError):
        holder = None
    return content[:4], holder, content


def _header(state: bytes, beats: int) -> bytes:
    return b"%s %012d\n" % (state, beats)


def _newest(place: Path) -> Path | None:
    found = _generations(place)
    if not found:
        return None
    newest = found[-1]
    # a shared file system may list a folder as it was some seconds ago; a file that is opened is there
    while (following := newest.with_name(f"{_number(newest) + 1:08d}")).exists():
        newest = following
    return newest


def _generations(place: Path) -> list[Path]:
    try:
        return sorted(place / name for name in os.listdir(place) if name.isdigit())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _number(path: Path | None) -> int:
    return 0 if path is None else int(path.name)


def _remains(place: Path, own: Path | None, folder: str | None) -> list[Path]:
    """Folders of earlier holders, the latest first. Files that name none, or the taker's own, say nothing more."""
    found: list[Path] = []
    for path in reversed(_generations(place)):
        if path == own:
            continue
        holder = _read(path)[1]
        if holder is not None and holder.folder not in (None, folder):
            found.append(Path(str(holder.folder)))
        elif own is not None:
            path.unlink(missing_ok=True)
    return list(dict.fromkeys(found))


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("[0-9a-f]" * 64))


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # only Linux has them
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str:
    """When the process started; empty where it does not live, or is only waited for."""
    try:
        # the name in brackets may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self/stat").exists() or not _lives(pid) else "unknown"
    return "" if fields[0] in "ZX" else fields[19]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

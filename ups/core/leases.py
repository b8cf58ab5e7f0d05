"""Who is making an artifact right now, so that two that need the same one make it once.

A lease is a file in the store itself. It holds between the processes of one machine, between several drivers, and
between machines that share the store, and needs neither a cluster nor a database: whoever can read an artifact can see
who is making it. The newest file in `leases/<name of the key>/` is the lease; its name is a number.

- To take a lease is to create the next number, which the store lets exactly one succeed in (`ups.core.numbered`). A
  free lease and one whose holder is dead are taken in the same way. No file is renamed or removed for that, so an
  observer that was slow cannot take away the lease of one who was faster.
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
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from ups.core.errors import UserError
from ups.core.numbered import NumberedFiles, NumberedFolder

BEAT_SECONDS = 5.0
TTL_SECONDS = 60.0
_HELD, _FREE = b"held", b"free"
_HEADER = 18
"""bytes of the first line: the state, the counter, a line break"""
_NO_ANSWER = (OSError, UserError)
"""from a store that does not answer, or refuses for now (credentials that are being renewed): nothing is known by it"""


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
    token: str
    """this lease's own: a store may not know whether it was our request that created a file, or one just like it"""

    @property
    def is_gone(self) -> bool:
        """Whether its process is known not to live; False if this machine cannot know."""
        return self.machine == _machine() and _started(self.pid) != self.started


class Lease:
    """The right to make one artifact; a context manager that gives it back."""

    def __init__(
        self,
        files: NumberedFiles,
        place: str,
        number: int,
        holder: Holder,
        remains: Sequence[Path],
        beat_seconds: float,
    ) -> None:
        self.remains = tuple(remains)
        """folders of earlier holders who did not finish, or whose artifact was damaged, the latest first"""
        self._files, self._place, self._number = files, place, number
        self._holder, self._beat_seconds = holder, beat_seconds
        self._beats, self._settled, self._released = 0, False, False
        self._lost, self._looked = False, time.monotonic()
        self._at_end: list[Callable[[bool], None]] = []
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
        """Whether another one has taken the lease meanwhile; a store that does not answer has said nothing."""
        if not self._lost and time.monotonic() - self._looked >= self._files.look_seconds:
            with contextlib.suppress(*_NO_ANSWER):
                # training waits meanwhile, at every report: a server that is down must not hold it up
                self._lost = max(self._files.numbers(self._place, waits=False), default=None) != self._number
            self._looked = time.monotonic()
        return self._lost

    def check(self) -> None:
        """Raises LeaseLost if another one has taken the lease."""
        if self.is_lost:
            raise LeaseLost(f"{self._holder.what} is made by another process meanwhile")

    def settle(self) -> None:
        """The artifact is published: nobody has to go on from this holder's checkpoints, or from earlier ones."""
        self._settled = True

    def at_end(self, act: Callable[[bool], None]) -> None:
        """Call `act` when the lease is given back, with whether the artifact is published."""
        self._at_end.append(act)

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
        for act in self._at_end:
            act(self._settled)
        # the store may be gone, or its disk full: then the end of this process frees the lease
        with contextlib.suppress(*_NO_ANSWER):
            if _newest(self._files, self._place) == self._number:
                self._give_back()

    def _give_back(self) -> None:
        if self._settled:
            self._files.remove(self._place)
        else:
            self._files.write(self._place, self._number, self._content(_FREE))

    def _beat_on(self) -> None:
        beaten = time.monotonic()
        while not self._end.wait(self._beat_seconds):
            with self._lock, contextlib.suppress(*_NO_ANSWER):
                if self._released:
                    return
                late, beaten = time.monotonic() - beaten > 3 * self._beat_seconds, time.monotonic()
                # one that was suspended may be replaced: a server would create anew what another has removed
                if late and _newest(self._files, self._place) != self._number:
                    self._lost = True
                    return
                self._beats += 1
                self._files.write(self._place, self._number, self._content(_HELD))

    def _content(self, state: bytes) -> bytes:
        return _content(state, self._beats, self._holder)


class Leases:
    """The leases of one store.

    Args:
        files: what they are kept in, or a folder for them.
        beat_seconds: time between two beats of a holder.
        ttl_seconds: how long a counter may stand still before its holder counts as dead; several beats.
    """

    def __init__(
        self, files: NumberedFiles | Path, beat_seconds: float = BEAT_SECONDS, ttl_seconds: float = TTL_SECONDS
    ) -> None:
        self._files: NumberedFiles = NumberedFolder(files) if isinstance(files, Path) else files
        self._beat_seconds, self._ttl_seconds = beat_seconds, ttl_seconds
        self._watched: dict[tuple[str, int], _Watch] = {}

    def acquire(
        self, name: str, key: str, what: str, folder: Path | None = None, reads: Sequence[str] = ()
    ) -> Lease | None:
        """The lease on `key`; None if a living holder has it.

        Args:
            name: of the key's place, 64 hexadecimal digits.
            key, what, folder, reads: see `Holder`.

        Raises:
            OSError: the store cannot be written.
        """
        files = self._files
        mine = None if folder is None else str(folder.absolute())
        pid, token = os.getpid(), uuid.uuid4().hex
        holder = Holder(key, what, _machine(), pid, _started(pid), mine, tuple(reads), token)
        while True:
            newest = _newest(files, name)
            if newest is not None and self._is_live(name, newest):
                return None
            number = (newest or 0) + 1
            if files.create(name, number, _content(_HELD, 0, holder)):
                return Lease(files, name, number, holder, _remains(files, name, number, mine), self._beat_seconds)

    def leave(self, name: str, key: str, what: str, folder: Path) -> None:
        """Say in which folder checkpoints of an artifact lie that has to be made again; the next to take its lease
        finds it in `remains`. Where there is a lease already, nothing is said."""
        if _newest(self._files, name) is None:
            nobody = Holder(key, what, "", 0, "", str(folder), (), uuid.uuid4().hex)
            self._files.create(name, 1, _content(_FREE, 0, nobody))

    def is_held(self, name: str) -> bool:
        """Whether a living holder has the lease.

        A holder that counts as dead is taken its lease: it may have taken long to find that out, and who asks next
        need not watch the counter anew.
        """
        newest = _newest(self._files, name)
        if newest is None:
            return False
        if self._is_live(name, newest):
            return True
        # one that was given back, perhaps this moment, has none to be taken
        if _read(self._files, name, newest)[0] != _FREE:
            with contextlib.suppress(*_NO_ANSWER):  # a store that can only be read
                self._files.create(name, newest + 1, _header(_FREE, 0))
        return False

    def held(self) -> Iterator[Holder]:
        """Everybody who has a lease; one who may be dead on another machine still counts."""
        for place in self._files.places():
            newest = _newest(self._files, place)
            if newest is None or not self._is_live(place, newest):
                continue
            holder = _read(self._files, place, newest)[1]
            if holder is not None:
                yield holder

    def sweep(self, published: set[str]) -> None:
        """Remove what nobody holds and nobody can go on from: the artifact is published, or no folder is left."""
        for place in self._files.places():
            newest = _newest(self._files, place)
            if newest is not None and self._is_live(place, newest):
                continue
            if place in published or not any(folder.is_dir() for folder in _remains(self._files, place, None, None)):
                self._files.remove(place)

    def _is_live(self, place: str, number: int) -> bool:
        state, holder, stamp = _read(self._files, place, number)
        if state == _FREE or (holder is not None and holder.is_gone):
            self._watched.pop((place, number), None)
            return False
        watch = self._watched.get((place, number))
        if watch is None or watch.stamp != stamp:
            self._watched[place, number] = _Watch(stamp, time.monotonic())
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


def _read(files: NumberedFiles, place: str, number: int) -> tuple[bytes, Holder | None, bytes]:
    """State, holder and whole content; one that is being created, or was freed by an observer, has no holder."""
    content = files.read(place, number)
    if content is None:
        return _FREE, None, b""
    try:
        data = json.loads(content[_HEADER:])
        holder = Holder(**{**data, "reads": tuple(data["reads"])})
    except (ValueError, KeyError, TypeError):
        holder = None
    return content[:4], holder, content


def _content(state: bytes, beats: int, holder: Holder) -> bytes:
    return _header(state, beats) + json.dumps(asdict(holder)).encode()


def _header(state: bytes, beats: int) -> bytes:
    return b"%s %012d\n" % (state, beats)


def _newest(files: NumberedFiles, place: str) -> int | None:
    return max(files.numbers(place), default=None)


def _remains(files: NumberedFiles, place: str, own: int | None, folder: str | None) -> list[Path]:
    """Folders of earlier holders, the latest first. Files that name none, or the taker's own, say nothing more."""
    found: list[Path] = []
    for number in reversed(files.numbers(place)):
        if number == own:
            continue
        holder = _read(files, place, number)[1]
        if holder is not None and holder.folder not in (None, folder):
            found.append(Path(str(holder.folder)))
        elif own is not None:
            files.remove(place, number)
    return list(dict.fromkeys(found))


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

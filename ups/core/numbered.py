"""Numbered files in named places: of all that try to create a number in a place, exactly one succeeds.

That is all that leases need of what they are kept in. A file system has it (O_EXCL), and so have object stores
(conditional writes).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from ups.core.objects import Objects


class NumberedFiles(Protocol):
    """Every method but `numbers` and `read` may raise OSError: there is no place to write."""

    look_seconds: float
    """how long what was seen of a place is good enough for its own holder: a look may cost a request"""

    def places(self) -> list[str]:
        """Every place that has a number, or had one."""

    def numbers(self, place: str, *, waits: bool = True) -> list[int]:
        """In their order; none if there is no such place.

        Args:
            waits: for a server that does not answer; else it is OSError at once.
        """

    def create(self, place: str, number: int, content: bytes) -> bool:
        """Whether it was this call that created the number."""

    def read(self, place: str, number: int) -> bytes | None:
        """None if there is none."""

    def write(self, place: str, number: int, content: bytes) -> None:
        """Replace the content of a number that this process created by another one of the same length."""

    def remove(self, place: str, number: int | None = None) -> None:
        """One number, or the whole place."""


class NumberedFolder:
    """A folder of places; also on a file system that machines share."""

    look_seconds = 0.0

    def __init__(self, root: Path) -> None:
        self.root = root

    def places(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("[0-9a-f]" * 64))

    def numbers(self, place: str, *, waits: bool = True) -> list[int]:
        try:
            found = sorted(int(name) for name in os.listdir(self.root / place) if name.isdigit())
        except (FileNotFoundError, NotADirectoryError):
            return []
        # a shared file system may list a folder as it was some seconds ago; a file that is opened is there
        while found and self._path(place, found[-1] + 1).exists():
            found.append(found[-1] + 1)
        return found

    def create(self, place: str, number: int, content: bytes) -> bool:
        path = self._path(place, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except (FileExistsError, FileNotFoundError):  # the latter: whoever had the place removed it this moment
            return False
        try:
            os.write(file, content)
            os.fsync(file)
        except OSError:  # no room: half of it would count as somebody's
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return True

    def read(self, place: str, number: int) -> bytes | None:
        try:
            return self._path(place, number).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, place: str, number: int, content: bytes) -> None:
        file = os.open(self._path(place, number), os.O_WRONLY)
        try:
            os.pwrite(file, content, 0)
            os.fsync(file)  # another machine sees what the server has
        finally:
            os.close(file)

    def remove(self, place: str, number: int | None = None) -> None:
        for each in self.numbers(place) if number is None else [number]:
            self._path(place, each).unlink(missing_ok=True)
        if number is None:
            with contextlib.suppress(OSError):  # somebody creates the next one
                (self.root / place).rmdir()

    def _path(self, place: str, number: int) -> Path:
        return self.root / place / f"{number:08d}"


class NumberedObjects:
    """Objects below a name, on a server that creates one only where there is none."""

    look_seconds = 5.0

    def __init__(self, objects: Objects, root: str) -> None:
        self._objects, self._root = objects, root

    def places(self) -> list[str]:
        found = {name.split("/")[1] for name in self._objects.sizes(self._root)}
        return sorted(found)

    def numbers(self, place: str, *, waits: bool = True) -> list[int]:
        there = self._objects.sizes(f"{self._root}/{place}", patience=None if waits else 0.0)
        found = (name.rpartition("/")[2] for name in there)
        return sorted(int(name) for name in found if name.isdigit())

    def create(self, place: str, number: int, content: bytes) -> bool:
        return self._objects.create(self._name(place, number), content)

    def read(self, place: str, number: int) -> bytes | None:
        return self._objects.read(self._name(place, number))

    def write(self, place: str, number: int, content: bytes) -> None:
        # the next beat comes soon enough
        self._objects.write(self._name(place, number), content, patience=0.0)

    def remove(self, place: str, number: int | None = None) -> None:
        numbers = self.numbers(place) if number is None else [number]
        self._objects.remove(self._name(place, each) for each in numbers)

    def _name(self, place: str, number: int) -> str:
        return f"{self._root}/{place}/{number:08d}"

"""Where a study's trials are written down: Optuna's journal in a file, or a database that several drivers share.

Everything that a search asks of either is one `Backend`; `tune.database` has the one in PostgreSQL.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, Protocol

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from tune.patience import append
from tune.snapshot import Snapshot
from tune.storage_url import is_database
from ups.core.errors import UserError
from ups.core.runtime import drop_half_line, write_atomic

STUDY_NAME = "search"
"""of the one study that a journal holds"""
PLAN = "plan"
"""attribute of a study: what it searches, so that nobody searches something else in it"""
optuna.logging.set_verbosity(optuna.logging.WARNING)

Direction = Literal["minimize", "maximize"]


class Backend(Protocol):
    """A study as one driver holds it open."""

    is_shared: ClassVar[bool]
    """whether other drivers may search the same study at the same time"""

    def open(self, directions: Sequence[Direction], plan: str) -> tuple[optuna.Study, str]:
        """Create the study, or open it; with the plan that it was created with.

        Raises:
            UserError: the place cannot be reached or written, or another search has it.
        """

    def start(self) -> None:
        """Begin to answer for trials; the plan was found to be the same."""

    def ask(self, study: optuna.Study, number: int) -> optuna.Trial | None:
        """Create trial `number`; None when another driver has created it in the meantime."""

    def take(self, trial: FrozenTrial) -> bool:
        """Take up a trial that has no end, if nobody else works on it; of several that try, one succeeds."""

    def holds(self, trial: FrozenTrial) -> bool:
        """Whether an open trial is this driver's."""

    def is_running(self, trial: FrozenTrial, searching: bool) -> bool:
        """Whether somebody works on an open trial; `searching`: whether this driver still does."""

    def sync(self) -> None:
        """Make what was written outlive a power cut."""

    def copy_if_due(self) -> None:
        """See to the copy that outlives the disk, where this backend has one."""

    def close(self) -> None: ...


def backend_of(folder: Path, place: str | None, name: str | None) -> Backend:
    """What a driver opens; `place` and `name` are `resources.study_storage` and `.study_name`."""
    if place is not None and is_database(place):
        from tune.database import DatabaseBackend

        assert name is not None, "the name is settled when the study is opened"
        return DatabaseBackend(folder, place, name)
    own = folder / "journal.log"
    return JournalBackend(own) if place is None else JournalBackend(Path(place), snapshot=own)


@dataclass(frozen=True)
class Reader:
    """A study as somebody looks at it who does not search it: as often as he likes, while others write."""

    study: optuna.Study
    look: Callable[[], Callable[[FrozenTrial], bool]]
    """asks who is there now; gives whether somebody works on an open trial"""


@contextlib.contextmanager
def reading(folder: Path, place: str | None, name: str | None) -> Iterator[Reader]:
    """The study, without a lock and without a word to its driver; `place` and `name` as in `backend_of`.

    Raises:
        UserError: there is no journal, or it is damaged; the database cannot be reached, or has no such study.
    """
    if place is not None and is_database(place):
        from tune.database import reading_database

        assert name is not None, "study.yaml has the name"
        with reading_database(place, name) as reader:
            yield reader
        return
    path = _journal_of(folder, place)
    if path is None:
        raise UserError(f"{folder}: its journal is missing ({place or folder / 'journal.log'})")
    with _readable(path):
        study = optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(_Journal(path)))

    def look() -> Callable[[FrozenTrial], bool]:
        searching = _is_locked(folder / ".lock")
        return lambda trial: searching

    yield Reader(study, look)


def read_trials(
    folder: Path, place: str | None, name: str | None
) -> tuple[list[FrozenTrial], Callable[[FrozenTrial], bool]]:
    """Every trial by number, and whether somebody works on an open one.

    Raises:
        UserError: the database cannot be reached, or has no such study; the journal is damaged.
    """
    if not is_database(place) and _journal_of(folder, place) is None:
        return [], lambda trial: False
    with reading(folder, place, name) as reader:
        return reader.study.get_trials(deepcopy=False), reader.look()


def _journal_of(folder: Path, place: str | None) -> Path | None:
    return next((each for each in (Path(place or ""), folder / "journal.log") if each.is_file()), None)


class JournalBackend:
    """A journal that one driver writes. What it left open at its death is nobody's: the next driver takes it up."""

    is_shared: ClassVar[bool] = False

    def __init__(self, path: Path, snapshot: Path | None = None) -> None:
        """
        Args:
            path: the journal.
            snapshot: where it is copied to, when it lies outside the STUDY folder; it comes back from there when the
                disk of the journal is gone.
        """
        self._path = path
        self._snapshot = snapshot
        self._copies: Snapshot | None = None
        self._lock: IO[str] | None = None

    def open(self, directions: Sequence[Direction], plan: str) -> tuple[optuna.Study, str]:
        try:
            if self._snapshot is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = take_lock(self._path.with_name(self._path.name + ".lock"), self._path)
                if not self._path.exists() and self._snapshot.exists():
                    shutil.copyfile(self._snapshot, self._path)
            # Optuna would append to half a line, and never read the file again
            drop_half_line(self._path)
            with _readable(self._path):
                storage = JournalStorage(_Journal(self._path))
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from None
        study = optuna.create_study(
            study_name=STUDY_NAME, storage=storage, directions=list(directions), load_if_exists=True
        )
        if PLAN not in study.user_attrs:
            study.set_user_attr(PLAN, plan)
        return study, study.user_attrs[PLAN]

    def start(self) -> None:
        if self._snapshot is not None:
            # not before it is known to be this study, and whole: the copy may be all that is left of it
            self._copies = Snapshot(self._copy, str(self._snapshot))

    def ask(self, study: optuna.Study, number: int) -> optuna.Trial | None:
        trial = study.ask()
        assert trial.number == number, "nobody else writes to the journal"
        return trial

    def take(self, trial: FrozenTrial) -> bool:
        return True

    def holds(self, trial: FrozenTrial) -> bool:
        return True

    def is_running(self, trial: FrozenTrial, searching: bool) -> bool:
        return searching

    def sync(self) -> None:
        with open(self._path, "rb") as stream:
            os.fsync(stream.fileno())

    def copy_if_due(self) -> None:
        if self._copies is not None:
            self._copies.copy_if_due()

    def close(self) -> None:
        if self._copies is not None:
            self._copies.close()
        if self._lock is not None:
            self._lock.close()

    def _copy(self) -> None:
        if self._snapshot is not None and self._path.exists():
            write_atomic(self._snapshot, self._path.read_bytes())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What Optuna cannot read in a journal is told in one line.

    Raises:
        UserError: a line of it is none that Optuna has written.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # the last: a kind of line that it does not know
        raise UserError(
            f"{path}: damaged, or no journal of Optuna ({type(error).__name__}: {error}); restore it, or search into "
            "another folder"
        ) from error


def take_lock(path: Path, what: Path) -> IO[str]:
    """Hold a lock file until the stream is closed or the process dies, by whatever death.

    Raises:
        UserError: another process holds it.
    """
    stream = open(path, "a+")  # noqa: SIM115 (held by whoever asked)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        stream.close()
        raise UserError(f"{what}: another search is writing to it (process {holder})") from None
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


class _Journal(JournalFileBackend):
    """Optuna's journal file, without its lock (the driver holds the folder's, and Optuna's would outlive a kill -9)
    and without an fsync for every write: what a killed process wrote is there all the same.

    Optuna reads back whatever it writes, some fifty lines a trial. Once this process writes nobody else does, and
    what it wrote is given back without a look into the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._writes = False
        self._unread: list[dict[str, Any]] = []
        self._read = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        append(self._path, "".join(f"{line}\n" for line in lines).encode())
        self._writes = True
        self._unread.extend(json.loads(line, object_pairs_hook=_with_shared_names) for line in lines)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
        # the number is another one after a line that Optuna refused
        if not self._writes or log_number_from != self._read:
            self._unread = list(super().read_logs(log_number_from))
        logs, self._unread = self._unread, []
        self._read = log_number_from + len(logs)
        yield from logs


def _with_shared_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a line holds, with one string for each name: Optuna keeps it of every trial."""
    return {sys.intern(name): value for name, value in pairs}


def _is_locked(path: Path) -> bool:
    try:
        with open(path) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False

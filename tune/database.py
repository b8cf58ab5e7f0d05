"""A study in PostgreSQL, searched by several drivers at once.

Optuna's tables, with what it leaves open: a trial has its driver from the moment it exists, exactly as many trials
are made as were asked for, a dead driver's trial goes to one other, and a restart of the server is waited for.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from tune.presence import DEAD_SECONDS, Presence, read_cards, whereabouts
from tune.storage import PLAN, Direction, Reader
from tune.storage_url import connection_of
from ups.core.errors import UserError
from ups.core.runtime import write_atomic

PATIENCE_SECONDS = 180.0
"""how long a server that does not answer is waited for: a restart, a failover"""
OWNER = "driver"
"""attribute of a trial: the driver that answers for it"""
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_OPENING = 0x75707320  # "ups ": one driver at a time makes tables and studies
_ID_FILE = ".driver"

_CLAIM = text(
    "UPDATE trial_user_attributes SET value_json = :mine WHERE trial_id = :trial AND key = 'driver' "
    "AND value_json = :theirs AND EXISTS (SELECT 1 FROM trials WHERE trial_id = :trial AND state = 'RUNNING')"
)
_HOLDER = text("SELECT value_json FROM trial_user_attributes WHERE trial_id = :trial AND key = 'driver'")

T = TypeVar("T")
# it says in a warning of many lines what `_insist` deals with
logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)


class StorageLost(UserError):
    """The database was away for too long. Everything told to it is kept: the search can be resumed."""


class NumberTaken(Exception):
    """Another driver has created the trial of this number."""


def _patient(method: Callable[..., T]) -> Callable[..., T]:
    """The method of a storage, tried again while the server does not answer."""

    def call(storage: PostgresStorage, *args: Any, **kwargs: Any) -> T:
        return storage.insist(lambda: method(storage, *args, **kwargs))

    return call


class PostgresStorage(RDBStorage):
    """Optuna's tables in PostgreSQL, with patience and with owners of trials.

    Every write may be sent twice: an answer can be lost with the connection after the write was done.
    """

    def __init__(self, url: str) -> None:
        self.place = url
        self.driver = ""
        """who creates trials here"""
        self.expected: int | None = None
        """number that a trial created here must get"""
        self._is_lost = False
        pool = {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 2}
        super().__init__("postgresql+psycopg://", {"connect_args": connection_of(url), **pool})

    def insist(self, call: Callable[[], T]) -> T:
        """Do it, again and again while the server does not answer.

        Raises:
            StorageLost: it has not answered for `PATIENCE_SECONDS`.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        pauses = iter(_PAUSES)
        pause = 0.0
        while True:
            try:
                return call()
            except (StorageInternalError, SQLAlchemyError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                if not _is_away(cause):
                    raise
                pause = next(pauses, pause)
                if self._is_lost or time.monotonic() + pause > deadline:
                    self._is_lost = True
                    raise StorageLost(
                        f"{self.place}: no answer for {PATIENCE_SECONDS:.0f} s ({_reason(cause)}); every trial told to "
                        "it is kept: start the server and continue with --resume"
                    ) from None
            time.sleep(pause)

    create_new_study = _patient(RDBStorage.create_new_study)
    set_study_user_attr = _patient(RDBStorage.set_study_user_attr)
    set_study_system_attr = _patient(RDBStorage.set_study_system_attr)
    get_study_id_from_name = _patient(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(RDBStorage.get_study_name_from_id)
    get_study_directions = _patient(RDBStorage.get_study_directions)
    get_study_user_attrs = _patient(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _patient(RDBStorage.get_study_system_attrs)
    get_all_studies = _patient(RDBStorage.get_all_studies)
    get_trial_id_from_study_id_trial_number = _patient(RDBStorage.get_trial_id_from_study_id_trial_number)
    set_trial_intermediate_value = _patient(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _patient(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _patient(RDBStorage.set_trial_system_attr)
    get_trial = _patient(RDBStorage.get_trial)
    # what Optuna's cache in front of this calls
    _set_trial_param = _patient(RDBStorage._set_trial_param)
    _get_best_trial_id = _patient(RDBStorage._get_best_trial_id)
    _get_trials = _patient(RDBStorage._get_trials)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        try:
            return self.insist(once)
        except UpdateFinishedTrialError:
            if tries > 1 and self.get_trial(trial_id).state is state:
                return True  # the first try was done, its answer was lost
            raise

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        return self.insist(lambda: RDBStorage._create_new_trial(self, study_id, template_trial or _owned(self.driver)))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if self.expected is not None and trial.number != self.expected:
            raise NumberTaken  # which takes the new row back: the study's row is locked until then
        return trial

    def claim(self, trial_id: int, theirs: str) -> bool:
        """Take a trial from its driver, as one step: of several that try, one succeeds."""
        mine = json.dumps(self.driver)

        def once() -> bool:
            with self.engine.begin() as connection:
                connection.execute(_CLAIM, {"trial": trial_id, "mine": mine, "theirs": json.dumps(theirs)})
                return connection.execute(_HOLDER, {"trial": trial_id}).scalar() == mine

        return self.insist(once)


class DatabaseBackend:
    """A study in a database, as one of its drivers holds it open."""

    is_shared: ClassVar[bool] = True

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self._folder = folder
        self._url = url
        self._name = name
        self._presence: Presence | None = None

    def open(self, directions: Sequence[Direction], plan: str) -> tuple[optuna.Study, str]:
        with _alone_opening(self._url):
            self._storage = PostgresStorage(self._url)
            study = optuna.create_study(
                study_name=self._name, storage=self._storage, directions=list(directions), load_if_exists=True
            )
            if PLAN not in study.user_attrs:
                study.set_user_attr(PLAN, plan)
        self._study_id = study._study_id
        return study, study.user_attrs[PLAN]

    def start(self) -> None:
        self._storage.driver = self._identity()
        write_atomic(self._folder / _ID_FILE, self._storage.driver.encode())
        presence = Presence(self._storage.engine, self._study_id, self._storage.driver, self._folder)
        self._storage.insist(presence.start)
        self._presence = presence

    def ask(self, study: optuna.Study, number: int) -> optuna.Trial | None:
        self._storage.expected = number
        try:
            return study.ask()
        except NumberTaken:
            return None
        finally:
            self._storage.expected = None

    def take(self, trial: FrozenTrial) -> bool:
        holder = trial.user_attrs.get(OWNER)
        assert self._presence is not None, "started"
        if holder == self._storage.driver:
            return True  # its own, from before a kill
        if holder is None or not self._presence.is_dead(holder):
            return False
        return self._storage.claim(trial._trial_id, holder)

    def holds(self, trial: FrozenTrial) -> bool:
        return trial.user_attrs.get(OWNER) == self._storage.driver

    def is_running(self, trial: FrozenTrial, searching: bool) -> bool:
        assert self._presence is not None, "started"
        return searching if self.holds(trial) else not self._presence.is_dead(trial.user_attrs.get(OWNER, ""))

    def sync(self) -> None:
        return None  # a commit outlives a power cut

    def copy_if_due(self) -> None:
        return None  # the server's disk is the server's matter

    def close(self) -> None:
        if self._presence is not None:
            self._presence.stop()
        if hasattr(self, "_storage"):
            self._storage.engine.dispose()

    def _identity(self) -> str:
        """The driver that this STUDY folder was before; a copy of the folder is another one."""
        file = self._folder / _ID_FILE
        known = file.read_text().strip() if file.exists() else ""
        with self._storage.engine.begin() as connection:
            card = read_cards(connection, self._study_id).get(known)
        here = whereabouts(self._folder)
        is_same = card is not None and all(card[0].get(key) == value for key, value in here.items())
        return known if is_same else uuid.uuid4().hex[:12]


@contextmanager
def reading_database(url: str, name: str) -> Iterator[Reader]:
    """A study for somebody who does not search it.

    Raises:
        UserError: the database cannot be reached, or has no such study.
    """
    with _alone_opening(url):
        storage = PostgresStorage(url)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        storage.engine.dispose()
        raise UserError(f"{url}: has no study {name!r}; was it deleted there?") from None

    def look() -> Callable[[FrozenTrial], bool]:
        def read() -> dict[str, tuple[dict[str, Any], float]]:
            with storage.engine.begin() as connection:
                return read_cards(connection, study._study_id)

        cards = storage.insist(read)
        alive = {driver for driver, (card, age) in cards.items() if age < DEAD_SECONDS and not card.get("ended")}
        return lambda trial: trial.user_attrs.get(OWNER) in alive

    try:
        yield Reader(study, look)
    finally:
        storage.engine.dispose()


@contextmanager
def _alone_opening(url: str) -> Iterator[None]:
    """Hold a lock of the database: two drivers that start at once would create its tables, or the study, twice.

    Raises:
        UserError: the server cannot be reached, or refuses.
    """
    try:
        engine = create_engine("postgresql+psycopg://", connect_args=connection_of(url))
        try:
            with engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _OPENING})
                yield
        finally:
            engine.dispose()
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise UserError(
            f"{url}: the study storage cannot be opened ({_reason(cause)}); start the server, check the URL, or give "
            "the password in PGPASSWORD or ~/.pgpass"
        ) from None
    except RuntimeError as error:  # Optuna's word on tables of another version
        raise UserError(f"{url}: {' '.join(str(error).split())}") from None


def _owned(driver: str) -> FrozenTrial:
    """What a new trial looks like: it belongs to its driver from the start, so that none is nobody's after a kill."""
    return FrozenTrial(
        number=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={OWNER: driver},
        system_attrs={},
        intermediate_values={},
        trial_id=-1,
    )


def _is_away(error: BaseException | None) -> bool:
    """Whether a connection was lost or refused: the same may succeed in a moment."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, (OperationalError, InterfaceError, PendingRollbackError))


def _reason(error: BaseException | None) -> str:
    """What the server or libpq says, in one line."""
    said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return " ".join(said.split())[:200]

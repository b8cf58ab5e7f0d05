"""The STUDY folder: what was searched, what every trial came to, and who may write to it.

study.yaml     the resolved space, the base config, the configs of `start_from`
journal.log    Optuna's journal: the one truth, everything else is derived from it (or `resources.study_storage` is:
               another path, whose last copy this one then is, or a database that several drivers share)
trials.jsonl   a line for every trial that ended, for other tools; in a shared study, of those that ended here
store/         finished stages, each trained once for all trials that share it (elsewhere with `--store`)
runs/0007/     the run folder of trial 7
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
import yaml
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tune.domain import from_journal
from tune.objectives import best_of
from tune.patience import append, patiently
from tune.snapshot import Snapshot, snapshot_in_store
from tune.space import SearchConfig, Space
from tune.storage import backend_of, read_trials, take_lock
from tune.storage_url import is_database
from tune.trial import run_folder
from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.remote_store import RemoteStore, open_store
from ups.core.runtime import write_atomic
from ups.core.store_uri import folder_of, is_uri
from ups.core.types import Status

SYNC_SECONDS = 1.0
"""what ended is brought to the disk at most this often: it takes as long as all else that is done for a trial"""


@dataclass(frozen=True)
class TrialRecord:
    """What a study knows of one trial."""

    number: int
    state: Status
    score: float | None
    """validation rollout_nrmse; of a pruned trial the one at its last milestone"""
    reason: str
    params: dict[str, Any]
    """values of the active names of the space, switches included; a given config also has the paths in which it
    differs from the base, so that `StudyFolder.config_of` is exact for every trial"""
    seconds: float
    reused_stages: tuple[str, ...]
    milestones: dict[str, float]
    """score at each validation, keyed `stage:share`"""
    parameters: int | None
    """number of weights"""
    origin: str = "sampled"
    """sampled, base, noise (the base on a further seed), or the config of `start_from`"""
    metrics: dict[str, float] = field(default_factory=dict)
    """what was measured of rollout_nrmse, inference_ms, parameters and peak_memory_gib"""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """seconds of each stage that this trial trained, in their order; the last is where it ended"""
    reused_seconds: dict[str, float] = field(default_factory=dict)
    """seconds that the reused stages had taken whoever trained them, where that is known: what the trial was spared"""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state), "reused_stages": list(self.reused_stages)}


@dataclass(frozen=True)
class Plan:
    """A search as it was asked for, checked and resolved: what `study.yaml` holds."""

    config: SearchConfig
    base: RunConfig
    start_from: tuple[RunConfig, ...] = ()
    golden_starts: tuple[str, ...] = ()
    """those of `start_from`, by name, that are golden configs"""

    @property
    def goldens(self) -> tuple[str, ...]:
        """Origins of the trials that train a golden config."""
        return (*(["base"] if self.base.provenance else []), *self.golden_starts)

    @property
    def space(self) -> Space:
        return Space(self.config.space, self.base)

    def to_yaml(self) -> str:
        content = {
            "search": self.config.model_dump(mode="json"),
            "base": self.base.model_dump(mode="json"),
            "start_from": [config.model_dump(mode="json") for config in self.start_from],
            "golden_starts": list(self.golden_starts),
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def from_yaml(cls, text: str) -> Plan:
        """
        Raises:
            UserError: not what `to_yaml` writes.
        """
        try:
            content = yaml.safe_load(text)
            return cls(
                SearchConfig.parse(content["search"]),
                RunConfig.parse(content["base"]),
                tuple(RunConfig.parse(config) for config in content["start_from"]),
                tuple(content.get("golden_starts", ())),
            )
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise UserError(f"damaged, {type(error).__name__}: {str(error).splitlines()[0]}") from None

    def kept_at(self, place: str | None, name: str | None) -> Plan:
        """The same search with its trials kept there."""
        paths = {"resources.study_storage": place, "resources.study_name": name}
        return replace(self, config=self.config.override(paths))

    def difference(self, other: Plan) -> str | None:
        """The first setting in which this plan (here) and the one of a folder (there) search different things.

        How many trials, how long, on how many CPUs, what they log and how they are confirmed may change between two
        resumes.
        """
        for name, mine, theirs in (
            ("", _identity(self.config), _identity(other.config)),
            ("base: ", _searched(self.base), _searched(other.base)),
            *(
                (f"start_from[{index}]: ", _searched(mine), _searched(theirs))
                for index, (mine, theirs) in enumerate(zip(self.start_from, other.start_from, strict=False))
            ),
        ):
            for path in [*mine, *(path for path in theirs if path not in mine)]:
                if mine.get(path) != theirs.get(path):
                    return f"{name}{path} is {theirs.get(path)!r} there and {mine.get(path)!r} here"
        return None if len(self.start_from) == len(other.start_from) else "start_from differs"


@dataclass(frozen=True)
class StudyFolder:
    """A study as it can be read at any time, while its search runs or after it."""

    path: Path
    config: SearchConfig
    base: RunConfig
    trials: tuple[TrialRecord, ...]

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the smallest score among those that ran to the end and hold the constraints."""
        return best_of(self.trials, self.config)

    @property
    def store(self) -> Path | str:
        """Where its finished stages are."""
        return store_place(self.path, self.config)

    def config_of(self, record: TrialRecord) -> RunConfig:
        """The complete config that the trial trained."""
        return Space(self.config.space, self.base).config_of(record.params)

    def run_folder(self, record: TrialRecord) -> Path:
        return run_folder(self.path, record.number)


def store_place(study: Path, config: SearchConfig) -> Path | str:
    """Where finished stages are: the absolute path of a folder, the study's own or one it shares, or a URI."""
    place = config.resources.store
    if place is not None and is_uri(place):
        return place
    return (study / "store" if place is None else folder_of(place)).absolute()


def diverged_shares(trials: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """Share that exploded or left the finite range, among sampled trials of the first and of the second half.

    None while there are not two sampled trials that trained.
    """
    idle = (Status.RUNNING, Status.INTERRUPTED, Status.INFEASIBLE)
    sampled = [trial for trial in trials if trial.origin == "sampled" and trial.state not in idle]
    half = len(sampled) // 2
    if half == 0:
        return None
    first, second = (
        sum(trial.state in (Status.EXPLODED, Status.NOT_FINITE) for trial in part) / len(part)
        for part in (sampled[:half], sampled[half:])
    )
    return first, second


def load_study(folder: Path) -> StudyFolder:
    """Read a study; nothing is written.

    Raises:
        UserError: the folder holds no study, or the database that it is in cannot be read.
    """
    plan = load_plan(folder)
    return StudyFolder(folder, plan.config, plan.base, _trials_of(folder, plan))


def load_trials(folder: Path) -> tuple[TrialRecord, ...]:
    """Every trial by number. One that runs is RUNNING while its search does, and INTERRUPTED after that."""
    return _trials_of(folder, load_plan(folder))


def _trials_of(folder: Path, plan: Plan) -> tuple[TrialRecord, ...]:
    resources = plan.config.resources
    trials, is_running = read_trials(folder, resources.study_storage, resources.study_name)
    return tuple(record_of(trial, is_running(trial)) for trial in trials)


def load_plan(folder: Path) -> Plan:
    path = folder / "study.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: no study here (study.yaml is missing)")
    try:
        return Plan.from_yaml(path.read_text())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def record_of(trial: FrozenTrial, searching: bool) -> TrialRecord:
    """The record that a trial of the journal stands for."""
    attributes = trial.user_attrs
    if trial.state.is_finished():
        state = Status(attributes["state"])
    else:
        state = Status.RUNNING if searching else Status.INTERRUPTED
    return TrialRecord(
        number=trial.number,
        state=state,
        score=attributes.get("score"),
        reason=attributes.get("reason", ""),
        params={**attributes.get("given", {}), **{name: from_journal(value) for name, value in trial.params.items()}},
        seconds=attributes.get("seconds", 0.0),
        reused_stages=tuple(attributes.get("reused_stages", ())),
        milestones=attributes.get("milestones", {}),
        parameters=attributes.get("parameters"),
        origin=attributes.get("origin", "sampled"),
        metrics=attributes.get("metrics", {}),
        stage_seconds=attributes.get("stage_seconds", {}),
        reused_seconds=attributes.get("reused_seconds", {}),
    )


class OpenStudy:
    """A study that this process searches: a context manager around the lock of its folder and its storage.

    No other process writes to the folder. In a database others may search the same study, each in a folder of its
    own: then a trial belongs to the driver that asked for it, until that one is dead.
    """

    def __init__(self, folder: Path, plan: Plan, *, resume: bool) -> None:
        """Create the study, or take it up again.

        Raises:
            UserError: another search runs in the folder; it holds a study and `resume` is off, or one of another
                space; it holds something else; it cannot be written; the database cannot be reached, or holds a
                study of another space under the name.
        """
        self.folder = folder.absolute()
        if (folder / "study.yaml").exists():
            there = load_plan(folder)
            self.plan = _settled(plan, self.folder, there)
            self._check_same(there, resume)
        elif folder.exists() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise UserError(f"{folder}: not empty and no study; choose another folder with --out")
        else:
            self.plan = _settled(plan, self.folder, None)
        resources = self.plan.config.resources
        self._backend = backend_of(self.folder, resources.study_storage, resources.study_name)
        self.is_shared = self._backend.is_shared
        self._synced, self._is_synced = float("-inf"), True
        self._snapshot: Snapshot | None = None
        self._kinds: dict[BaseDistribution, BaseDistribution] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.folder / ".lock", self.folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _open(self) -> None:
        directions = [objective.direction for objective in self.plan.config.objectives]
        self.optuna, created_as = self._backend.open(directions, self.plan.to_yaml())
        difference = self.plan.difference(Plan.from_yaml(created_as))
        if difference is not None:
            resources = self.plan.config.resources
            where = f"{resources.study_storage or self.folder}, study {resources.study_name!r}"
            raise UserError(f"{where}: holds a study of another space ({difference}); choose another --study-name")
        self._backend.start()
        self._taken: set[int] = set()
        try:
            (self.folder / "runs").mkdir(exist_ok=True)
            write_atomic(self.folder / "study.yaml", self.plan.to_yaml().encode())
            lines = [json.dumps(record_of(trial, True).to_json()) + "\n" for trial in self._ended_here()]
            write_atomic(self.folder / "trials.jsonl", "".join(lines).encode())
            self._snapshot = self._begin_snapshot()
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror})") from None

    def _begin_snapshot(self) -> Snapshot | None:
        place, store = self.plan.config.resources.study_storage, open_store(store_place(self.folder, self.plan.config))
        if is_database(place) or not isinstance(store, RemoteStore):
            return None
        return snapshot_in_store(self.folder, Path(place or self.folder / "journal.log"), store.objects)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_synced:
            self._sync()
        self._backend.close()
        if self._snapshot is not None:
            self._snapshot.close()
        self._lock.close()

    def records(self, *, searching: bool = True) -> tuple[TrialRecord, ...]:
        """Every trial by number; those without an end are RUNNING, or INTERRUPTED when nobody searches on."""
        return tuple(
            record_of(trial, self._backend.is_running(trial, searching))
            for trial in self.optuna.get_trials(deepcopy=False)
        )

    def trial(self, number: int) -> FrozenTrial:
        """One trial, however many there are: not to be changed."""
        storage = self.optuna._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number))

    def ask(self, number: int) -> optuna.Trial | None:
        """Ask Optuna for trial `number`, the next one; None when another driver has got it in the meantime.

        However many drivers ask, every number is given once and none is left out.
        """
        trial = self._backend.ask(self.optuna, number)
        if trial is not None:
            self._taken.add(number)
        return trial

    def unfinished(self) -> list[FrozenTrial]:
        """Open trials that nobody works on, by number; whoever gets them here has to end them.

        Those that an earlier driver of this folder left, and in a shared study those of drivers that are dead or have
        ended. Each is given once. In a shared study more may come at any time.
        """
        # by number, as two drivers that lock rows in other orders would wait for each other
        running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        found = [trial for trial in running if trial.number not in self._taken and self._backend.take(trial)]
        self._taken.update(trial.number for trial in found)
        return found

    def holds(self, number: int) -> bool:
        """Whether an open trial is still this driver's: after a silence another may have taken it up, and ended it.

        Asked before a trial is reported or told in a shared study; what is not held is dropped without a word.
        """
        trial = self.trial(number)
        return not trial.state.is_finished() and self._backend.holds(trial)

    def others_work(self) -> bool:
        """Whether other drivers work on open trials: until they have ended, some may still come to `unfinished`."""
        running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(not self._backend.holds(trial) for trial in running)

    def note_ended(self, number: int) -> TrialRecord:
        """Add a trial that was told to `trials.jsonl`. It outlives a kill at once, and a power cut at the latest with
        the first trial that ends `SYNC_SECONDS` later, or when the study is closed."""
        trial = self.trial(number)
        # equal ones are one: Optuna makes new ones with every trial, and keeps them
        trial.distributions = {name: self._kinds.setdefault(kind, kind) for name, kind in trial.distributions.items()}
        record = record_of(trial, True)
        append(self.folder / "trials.jsonl", f"{json.dumps(record.to_json())}\n".encode())
        self._is_synced = False
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()
        self.copy_if_due()
        return record

    def copy_if_due(self) -> None:
        """Begin to copy the journal to where it outlives its disk, if the last copies are old; asked at every report,
        as trials may be long."""
        self._backend.copy_if_due()
        if self._snapshot is not None:
            self._snapshot.copy_if_due()

    def _sync(self) -> None:
        patiently(self._flush)
        self._synced, self._is_synced = time.monotonic(), True

    def _flush(self) -> None:
        with open(self.folder / "trials.jsonl", "rb") as stream:
            os.fsync(stream.fileno())
        self._backend.sync()

    def _ended_here(self) -> list[FrozenTrial]:
        trials = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished() and self._backend.holds(trial)]

    def _check_same(self, other: Plan, resume: bool) -> None:
        difference = self.plan.difference(other)
        if difference is not None:
            raise UserError(f"{self.folder}: holds a study of another space ({difference}); choose another --out")
        if not resume:
            raise UserError(f"{self.folder}: holds this study already; continue it with --resume")


def _settled(plan: Plan, folder: Path, there: Plan | None) -> Plan:
    """The plan with the place of its trials written out: the given one, else the one that the folder has.

    Raises:
        UserError: the folder's trials are in another place.
    """
    resources = plan.config.resources
    place, name = resources.study_storage, resources.study_name
    if place is not None and not is_database(place):
        place = str(Path(place).absolute())
    if there is not None:
        kept = there.config.resources
        if place not in (None, kept.study_storage) or name not in (None, kept.study_name):
            raise UserError(
                f"{folder}: its trials are kept in {_spoken(kept.study_storage, kept.study_name)}, not in "
                f"{_spoken(place, name)}; resume it without --study-storage and --study-name, or choose another --out"
            )
        place, name = kept.study_storage, kept.study_name
    if not is_database(place):
        if name is not None:
            raise UserError("a name is for a study in a database; give --study-storage postgresql://... as well")
        return plan if place is None else plan.kept_at(place, None)
    return plan.kept_at(place, name or folder.name)


def _spoken(place: str | None, name: str | None) -> str:
    where = "its journal.log" if place is None else place
    return where if name is None else f"{where} as {name!r}"


def _identity(config: SearchConfig) -> Mapping[str, Any]:
    flat = config.flat()
    free = ("resources.", "budget.", "confirm.", "strategy.trials", "base")
    return {path: value for path, value in flat.items() if not path.startswith(free)}


def _searched(config: RunConfig) -> dict[str, Any]:
    """What a trial rests on: what it writes on the way is no part of it."""
    return {path: value for path, value in config.flat().items() if not path.startswith("logging.")}

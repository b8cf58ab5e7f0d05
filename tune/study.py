"""The STUDY folder: what was searched, what every trial came to, and who may write to it.

study.yaml     the resolved space, the base config, the configs of `start_from`
journal.log    Optuna's journal: the one truth, everything else is derived from it
trials.jsonl   a line for every trial that ended, for other tools
store/         finished stages, each trained once for all trials that share it (elsewhere with `--store`)
runs/0007/     the run folder of trial 7
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tune.domain import from_journal
from tune.space import SearchConfig, Space
from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.runtime import write_atomic
from ups.core.types import Status

STUDY_NAME = "search"
optuna.logging.set_verbosity(optuna.logging.WARNING)


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
    """sampled, base, or the config of `start_from`"""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state), "reused_stages": list(self.reused_stages)}


@dataclass(frozen=True)
class Plan:
    """A search as it was asked for, checked and resolved: what `study.yaml` holds."""

    config: SearchConfig
    base: RunConfig
    start_from: tuple[RunConfig, ...] = ()

    @property
    def space(self) -> Space:
        return Space(self.config.space, self.base)

    def to_yaml(self) -> str:
        content = {
            "search": self.config.model_dump(mode="json"),
            "base": self.base.model_dump(mode="json"),
            "start_from": [config.model_dump(mode="json") for config in self.start_from],
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)

    def difference(self, other: Plan) -> str | None:
        """The first setting in which this plan (here) and the one of a folder (there) search different things.

        How many trials, how long, on how many CPUs and how they are confirmed may change between two resumes.
        """
        for name, mine, theirs in (
            ("", _identity(self.config), _identity(other.config)),
            ("base: ", self.base.flat(), other.base.flat()),
            *(
                (f"start_from[{index}]: ", mine.flat(), theirs.flat())
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
        """The complete trial with the smallest score; no other ran to the end."""
        return best_of(self.trials)

    def config_of(self, record: TrialRecord) -> RunConfig:
        """The complete config that the trial trained."""
        return Space(self.config.space, self.base).config_of(record.params)

    def run_folder(self, record: TrialRecord) -> Path:
        return run_folder(self.path, record.number)


def run_folder(study: Path, number: int) -> Path:
    return study / "runs" / f"{number:04d}"


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


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    complete = [record for record in records if record.state is Status.COMPLETE and record.score is not None]
    return min(complete, key=lambda record: (record.score, record.number), default=None)


def load_study(folder: Path) -> StudyFolder:
    """Read a study; nothing is written.

    Raises:
        UserError: the folder holds no study.
    """
    plan = load_plan(folder)
    return StudyFolder(folder, plan.config, plan.base, load_trials(folder))


def load_trials(folder: Path) -> tuple[TrialRecord, ...]:
    """Every trial by number. One that runs is RUNNING while its search does, and INTERRUPTED after that."""
    if not (folder / "journal.log").is_file():
        return ()
    searching = _is_locked(folder)
    study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(folder))
    return tuple(record_of(trial, searching) for trial in study.get_trials(deepcopy=False))


def load_plan(folder: Path) -> Plan:
    path = folder / "study.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: no study here (study.yaml is missing)")
    try:
        content = yaml.safe_load(path.read_text())
        return Plan(
            SearchConfig.parse(content["search"]),
            RunConfig.parse(content["base"]),
            tuple(RunConfig.parse(config) for config in content["start_from"]),
        )
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged, {type(error).__name__}: {str(error).splitlines()[0]}") from None


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
    )


class OpenStudy:
    """A study that this process, and no other, searches: a context manager around its lock and its journal."""

    def __init__(self, folder: Path, plan: Plan, *, resume: bool) -> None:
        """Create the study, or take it up again.

        Raises:
            UserError: another search runs in the folder; it holds a study and `resume` is off, or one of another
                space; it holds something else; it cannot be written.
        """
        self.folder = folder.absolute()
        self.plan = plan
        existing = (folder / "study.yaml").exists()
        if existing:
            self._check_same(load_plan(folder), resume)
        elif folder.exists() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise UserError(f"{folder}: not empty and no study; choose another folder with --out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "a+")  # noqa: SIM115 (held until close)
            self._take_lock()
            (self.folder / "runs").mkdir(exist_ok=True)
            write_atomic(self.folder / "study.yaml", plan.to_yaml().encode())
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
        _drop_half_line(self.folder / "journal.log")
        self.storage = _storage(self.folder)
        self.optuna = optuna.create_study(
            study_name=STUDY_NAME, storage=self.storage, direction="minimize", load_if_exists=True
        )
        lines = [json.dumps(record.to_json()) + "\n" for record in self.records() if record.state in _ENDED]
        write_atomic(self.folder / "trials.jsonl", "".join(lines).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def records(self, *, searching: bool = True) -> tuple[TrialRecord, ...]:
        """Every trial by number; those without an end are RUNNING, or INTERRUPTED when nobody searches on."""
        return tuple(record_of(trial, searching) for trial in self.optuna.get_trials(deepcopy=False))

    def unfinished(self) -> list[FrozenTrial]:
        """Trials that an earlier driver left running, by number."""
        return self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def note_ended(self, number: int) -> TrialRecord:
        """Add a trial that was told to the journal to `trials.jsonl`, and make both outlive a power cut."""
        record = record_of(self.optuna.get_trials(deepcopy=False)[number], True)
        with open(self.folder / "trials.jsonl", "a") as stream:
            stream.write(json.dumps(record.to_json()) + "\n")
        for name in ("journal.log", "trials.jsonl"):
            with open(self.folder / name, "rb") as stream:
                os.fsync(stream.fileno())
        return record

    def _check_same(self, other: Plan, resume: bool) -> None:
        difference = self.plan.difference(other)
        if difference is not None:
            raise UserError(f"{self.folder}: holds a study of another space ({difference}); choose another --out")
        if not resume:
            raise UserError(f"{self.folder}: holds this study already; continue it with --resume")

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            raise UserError(f"{self.folder}: another search is writing to it (process {holder})") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()


_ENDED = frozenset(Status) - {Status.RUNNING, Status.INTERRUPTED}


class _Journal(JournalFileBackend):
    """Optuna's journal file, without its lock (the driver holds the folder's, and Optuna's would outlive a kill -9)
    and without an fsync for every write: what a killed process wrote is there all the same."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs))


def _storage(folder: Path) -> JournalStorage:
    return JournalStorage(_Journal(folder / "journal.log"))


def _drop_half_line(journal: Path) -> None:
    """Cut a last line that a kill left unfinished: Optuna would append to it, and never read the file again."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(journal, "r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def _is_locked(folder: Path) -> bool:
    try:
        with open(folder / ".lock") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _identity(config: SearchConfig) -> Mapping[str, Any]:
    flat = config.flat()
    free = ("resources.", "budget.", "confirm.", "strategy.trials", "base")
    return {path: value for path, value in flat.items() if not path.startswith(free)}

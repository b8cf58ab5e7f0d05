"""What a study needs of its store, so that no collection takes it away."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tune.objectives import foremost
from tune.snapshot import name_in_store
from tune.study import StudyFolder
from ups.config import RunConfig, load_config
from ups.core.remote_store import RemoteStore
from ups.core.store import Store
from ups.core.types import Status
from ups.data.task import load_task
from ups.training.keys import stage_keys


def pin_study(study: StudyFolder, store: Store, further: Collection[str] = ()) -> None:
    """Pin what the study needs now, and nothing else of what it pinned before.

    The stages of its base, of its best trials (as many as are confirmed, and the Pareto front), of trials that have
    not ended, and of everything that a promotion retrained, the golden included. Latents are not pinned: they are
    needed only while a stage trains, and its lease protects them.

    Args:
        further: keys of artifacts that are needed as well.

    Raises:
        DataError: the task's data, whose content enters the name of every stage, cannot be read.
    """
    data = load_task(study.base.task).fingerprint
    keys = {key for config in _needed(study) for key in stage_keys(config, data).values()}
    path = str(study.path.resolve())
    owner = f"{name_in_store(study.path)} at {path}" if isinstance(store, RemoteStore) else path
    store.pin(owner, keys | set(further))


def _needed(study: StudyFolder) -> Iterator[RunConfig]:
    unfinished = [record for record in study.trials if record.state in (Status.RUNNING, Status.INTERRUPTED)]
    yield study.base
    for record in (*foremost(study.trials, study.config), *unfinished):
        yield study.config_of(record)
    for path in sorted((study.path / "confirm").glob("*/config.yaml")):
        yield load_config(path)

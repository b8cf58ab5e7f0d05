"""How a stage ended, as a file beside its weights, in a run's folder or in the store."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ups.core.checkpoint import BEST, load_checkpoint
from ups.core.errors import DataError
from ups.core.runtime import write_atomic
from ups.core.store import Store
from ups.core.types import Status
from ups.training.loop import StageResult

_RESULT = "result.json"


def found_stages(run: Path) -> dict[str, float]:
    """Stages that the run in a folder has found in its store so far -> seconds that they took whoever trained them."""
    found = {}
    for path in (run / "checkpoints").glob(f"*/{_RESULT}"):
        data = _read(path.parent)
        if data.get("reused"):
            found[path.parent.name] = float(data["seconds"])
    return found


def await_stages(keys: Mapping[str, str], store: Store, run: Path, *, wait: bool) -> None:
    """Return when nobody else trains the first stage that a run has to train.

    Raises:
        StageBusy: somebody does, and `wait` is false.
    """
    for name, key in keys.items():
        if not (run / "checkpoints" / name / _RESULT).is_file() and not store.has(key):
            store.wait_for(key, name, wait=wait)
            if not store.has(key):
                return


def copy_stage(folder: Path, temporary: Path, result: StageResult) -> None:
    """What is published of a stage: of one that failed the verdict alone."""
    for name in (BEST, _RESULT) if result.status is Status.COMPLETE else (_RESULT,):
        shutil.copyfile(folder / name, temporary / name)


def load_own(folder: Path) -> tuple[StageResult, bool] | None:
    """How a stage ended in this run and whether it was found then; None if it did not end, or what it left is damaged:
    then it is found in the store, or its end is trained again."""
    if not (folder / _RESULT).is_file():
        return None
    result = load_result(folder)
    if result.status is Status.COMPLETE:
        try:
            load_checkpoint(folder / BEST)
        except DataError as error:
            warnings.warn(f"{error}; the stage is taken from the store, or trained again", stacklevel=2)
            return None
    return result, bool(_read(folder).get("reused"))


def load_result(folder: Path) -> StageResult:
    """
    Raises:
        FileNotFoundError: it has not ended there.
    """
    data = _read(folder)
    known = {name: data[name] for name in StageResult.__dataclass_fields__}
    return StageResult(**{**known, "status": Status(data["status"])})


def save_result(folder: Path, result: StageResult, *, reused: bool = False) -> None:
    """`reused`: it was found in the store."""
    data = {**asdict(result), "status": str(result.status), "reused": reused}
    write_atomic(folder / _RESULT, json.dumps(data).encode())


def _read(folder: Path) -> Mapping[str, Any]:
    data: Mapping[str, Any] = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    return data

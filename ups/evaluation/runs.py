"""What a run folder tells of itself: how it ended, what it was trained on, and that data again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ups.core.checkpoint import load_checkpoint
from ups.core.errors import UserError
from ups.core.types import RunResult, Status
from ups.data.pdebench import inspect
from ups.data.task import Task, TaskConfig, load_task
from ups.inference.build import checkpoint_of

RESULT = "result.json"


def load_result(folder: Path) -> RunResult:
    """The recorded outcome of a finished run.

    Raises:
        UserError: the run has not finished, or this is no run folder.
    """
    path = folder / RESULT
    if not path.is_file():
        raise UserError(f"{folder}: no finished run here ({RESULT} is missing); `ups train` writes one")
    data = json.loads(path.read_text(encoding="utf-8"))
    known = {**data, "status": Status(data["status"]), "folder": folder}
    return RunResult(**{**known, "reused_stages": tuple(data["reused_stages"])})


def task_of(run: Path, cells: int | None = None) -> Task:
    """The task that a run was trained on, at the run's cells or at others that a stride of its files gives.

    Raises:
        UserError: the files are gone or changed since, or no stride gives the cells.
    """
    facts = _facts_of(run)
    task_config = TaskConfig.parse(facts["config"]["task"])
    task = load_task(task_config)
    if facts["data"] != task.fingerprint:
        raise UserError(
            f"{run}: its data changed since it was trained, so test trajectories may have been trained on; "
            "restore the files, or score it on another file with `ups evaluate --data`"
        )
    if cells is None:
        return task
    native = inspect(task_config.files[0]).cells[0]
    if native % cells:
        raise UserError(f"--cells: must divide the {native} cells of {task_config.files[0]}, got {cells}")
    return load_task(task_config.override({"space_stride": native // cells}))


def files_of(run: Path) -> tuple[str, ...]:
    """The files that a run was trained on, as its config names them."""
    return TaskConfig.parse(_facts_of(run)["config"]["task"]).files


def _facts_of(run: Path) -> dict[str, Any]:
    """What the run's best checkpoint says of it."""
    return load_checkpoint(checkpoint_of(run)).facts

"""Going on from what another run left of a stage: one of its checkpoints, instead of the first step.

A stage is determined by its key, and resuming is exact: the checkpoint of another run that trained the same key is what
this run would have written itself. The key stands in every checkpoint, because a run folder may hold another run by
the time somebody looks into it.

So is the state of a stage at a share of it, by what was given up to there: a run that changes its settings on the way
goes on from the state of any run that was equal until then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ups.core.checkpoint import BEFORE, BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from ups.core.errors import DataError


def take_over(folder: Path, key: str, others: Sequence[Path]) -> bool:
    """Put the furthest checkpoint of a stage into `folder`; returns whether there is one to go on from.

    What `folder` holds itself counts as well; a checkpoint in it that belongs to another key or is damaged is removed,
    the latter with a warning. Where the latest one is damaged, the one before it counts.

    Args:
        folder: of the stage in this run.
        key: what the stage is called in the store.
        others: folders of the same stage in other runs, which may be gone, damaged, or hold something else.
    """
    damaged = [name for name in (LAST, BEST) if _is_damaged(folder / name)]
    step = _furthest(folder, key)
    if step is None:
        for name in (LAST, BEFORE, BEST):
            (folder / name).unlink(missing_ok=True)
    for other in others:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".other.", dir=folder) as temporary:
            copy = Path(temporary)
            # `best` is written first: next to a copied `last` lies its own `best`, or one of a later step, which
            # the steps from `last` on write again
            for name in (BEFORE, LAST, BEST):
                with contextlib.suppress(OSError):
                    shutil.copyfile(other / name, copy / name)
            theirs = _furthest(copy, key)
            if theirs is None or (step is not None and theirs <= step):
                continue
            for name in (BEST, LAST):
                if (copy / name).is_file():
                    os.replace(copy / name, folder / name)
            step = theirs
    if damaged:
        begin = "at its beginning" if step is None else f"at step {step}"
        warnings.warn(f"{folder}: damaged checkpoint ({', '.join(damaged)}); the stage goes on {begin}", stacklevel=2)
    return step is not None


def copy_state(folder: Path, to: Path) -> None:
    """Copy what `adopt` needs of a stage."""
    for name in (BEST, LAST):
        shutil.copyfile(folder / name, to / name)


def adopt(folder: Path, facts: Mapping[str, Any], state: Path) -> bool:
    """Make the state of an equal run this run's own; returns whether it could be read.

    The seconds that the other one paid for are not counted again.

    Args:
        folder: of the stage in this run.
        facts: of this run and its stage, in place of the other's.
        state: folder of the other's `best` and `last`.
    """
    try:
        found = {name: load_checkpoint(state / name) for name in (BEST, LAST)}
    except DataError:
        return False
    found[LAST].facts["state"]["seconds"] = 0.0
    folder.mkdir(parents=True, exist_ok=True)
    # `last` at the end: a run that has it goes on from it
    for name, checkpoint in found.items():
        save_checkpoint(folder / name, Checkpoint(checkpoint.tensors, {**checkpoint.facts, **facts}))
    return True


def _is_damaged(path: Path) -> bool:
    """Whether there is a file that cannot be read: the machine failed while it was written, or its disk did."""
    try:
        load_checkpoint(path)
    except DataError:
        return path.is_file()
    return False


def _furthest(folder: Path, key: str) -> int | None:
    """As `_step`; a checkpoint before the last one takes its place where that one cannot be gone on from."""
    step = _step(folder, key)
    if step is None and (folder / BEFORE).is_file():
        os.replace(folder / BEFORE, folder / LAST)
        step = _step(folder, key)
    return step


def _step(folder: Path, key: str) -> int | None:
    """How far the stage `key` has come in a folder; None if its checkpoints cannot be gone on from."""
    try:
        last = load_checkpoint(folder / LAST)
        if last.facts.get("key") != key:
            return None
        state = last.facts["state"]
        if state["best"] is not None and load_checkpoint(folder / BEST).facts.get("key") != key:
            return None
        return int(state["step"])
    except (DataError, KeyError):
        return None

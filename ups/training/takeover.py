"""Going on from what another run left of a stage: its last checkpoint, instead of the first step.

A stage is determined by its key, and resuming is exact: the checkpoint of another run that trained the same key is what
this run would have written itself. The key stands in every checkpoint, because a run folder may hold another run by
the time somebody looks into it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ups.core.checkpoint import load_checkpoint
from ups.core.errors import DataError

LAST, BEST = "last.safetensors", "best.safetensors"


def take_over(folder: Path, key: str, others: Sequence[Path]) -> bool:
    """Put the furthest checkpoint of a stage into `folder`; returns whether there is one to go on from.

    What `folder` holds itself counts as well; a checkpoint in it that belongs to another key is removed.

    Args:
        folder: of the stage in this run.
        key: what the stage is called in the store.
        others: folders of the same stage in other runs, which may be gone, damaged, or hold something else.
    """
    step = _step(folder, key)
    if step is None:
        for name in (LAST, BEST):
            (folder / name).unlink(missing_ok=True)
    for other in others:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".other.", dir=folder) as temporary:
            copy = Path(temporary)
            # `best` is written first: next to a copied `last` lies its own `best`, or one of a later step, which
            # the steps from `last` on write again
            with contextlib.suppress(OSError):
                for name in (LAST, BEST):
                    shutil.copyfile(other / name, copy / name)
            theirs = _step(copy, key)
            if theirs is None or (step is not None and theirs <= step):
                continue
            for name in (BEST, LAST):
                if (copy / name).is_file():
                    os.replace(copy / name, folder / name)
            step = theirs
    return step is not None


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

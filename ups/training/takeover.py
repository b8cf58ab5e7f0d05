"""Going on from what another run left of a stage: one of its checkpoints, instead of the first step.

A stage is determined by its key, and resuming is exact: the checkpoint of another run that trained the same key is what
this run would have written itself. The key stands in every checkpoint, because a run folder may hold another run by
the time somebody looks into it.

So is the state of a stage at a share of it, by what was given up to there: a run that changes its settings on the way
goes on from the state of any run that was equal until then.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups.core.checkpoint import BEST, LAST, Checkpoint, copy_of, load_checkpoint, save_twice
from ups.core.errors import DataError


def take_over(folder: Path, key: str, others: Sequence[Path]) -> bool:
    """Put the furthest checkpoint of a stage into `folder`; returns whether there is one to go on from.

    What `folder` holds itself counts as well; a checkpoint in it that belongs to another key or is damaged is removed
    or replaced, the latter with a warning. Where a file is damaged, its copy counts.

    Args:
        folder: of the stage in this run.
        key: what the stage is called in the store.
        others: folders of the same stage in other runs, which may be gone, damaged, or hold something else.

    Raises:
        OSError: the folder cannot be read or written now; what can be gone on from is still there.
    """
    own = _Left.of(folder)
    damaged = [
        path for path, found in zip(_files(folder), (*own.last, *own.best), strict=True) if _is_damaged(path, found)
    ]
    found, place = own.furthest(key), own
    for other in others:
        left = _Left.of(other)
        theirs = left.furthest(key)
        if theirs is not None and (found is None or theirs.step > found.step):
            found, place = theirs, left
    if found is None and own.refusal is not None:
        raise own.refusal  # it may be read a little later
    if damaged:
        names = ", ".join(path.name for path in damaged)
        begin = "at its beginning" if found is None else f"at step {found.step}"
        warnings.warn(f"{folder}: damaged checkpoint ({names}); the stage goes on {begin}", stacklevel=2)
    replaced: set[Path] = set()
    if found is not None:
        # `last` at the end: a run that has it goes on from it
        for name, ours, checkpoint in ((BEST, own.best, found.best), (LAST, own.last, found.last)):
            if checkpoint is not None and (place is not own or not _are_equal(ours)):
                save_twice(folder / name, checkpoint)
                replaced |= {folder / name, copy_of(folder / name)}
    # and what a kill has left half written
    for path in {*(_files(folder) if found is None else damaged), *folder.glob(".*.safetensors.*.tmp")} - replaced:
        path.unlink(missing_ok=True)
    return found is not None


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
        save_twice(folder / name, Checkpoint(checkpoint.tensors, {**checkpoint.facts, **facts}))
    return True


@dataclass(frozen=True)
class _Found:
    """A state that can be gone on from."""

    step: int
    last: Checkpoint
    best: Checkpoint | None


@dataclass(frozen=True)
class _Left:
    """What can be read in a folder: each checkpoint and its copy, None where there is none or it is damaged."""

    last: tuple[Checkpoint | None, Checkpoint | None]
    best: tuple[Checkpoint | None, Checkpoint | None]
    refusal: OSError | None
    """why one of them could not be read, where that may pass"""

    @classmethod
    def of(cls, folder: Path) -> _Left:
        # `best` is written first: beside a `last` that was read lies its own `best`, or one of a later step, which
        # the steps from `last` on write again
        found, refusal = list[Checkpoint | None](), None
        for path in _files(folder):
            try:
                found.append(load_checkpoint(path))
            except DataError:
                found.append(None)
            except OSError as error:
                found.append(None)
                refusal = error
        last, last_copy, best, best_copy = found
        return cls((last, last_copy), (best, best_copy), refusal)

    def furthest(self, key: str) -> _Found | None:
        """The state of the stage `key`; a copy is never further than what it is a copy of."""
        bests = [best for best in self.best if best is not None and best.facts.get("key") == key]
        for last in self.last:
            if last is None or last.facts.get("key") != key:
                continue
            state = last.facts["state"]
            if state["best"] is None:
                return _Found(int(state["step"]), last, None)
            # a worse one was the best of an earlier step
            best = next((best for best in bests if best.facts["score"] <= state["best"]), None)
            if best is not None:
                return _Found(int(state["step"]), last, best)
        return None


def _files(folder: Path) -> tuple[Path, Path, Path, Path]:
    last, best = folder / LAST, folder / BEST
    return last, copy_of(last), best, copy_of(best)


def _is_damaged(path: Path, found: Checkpoint | None) -> bool:
    """Whether there is a file that cannot be read: the machine failed while it was written, or its disk did."""
    return found is None and path.is_file()


def _are_equal(copies: tuple[Checkpoint | None, Checkpoint | None]) -> bool:
    first, second = copies
    return first is not None and second is not None and first.facts == second.facts

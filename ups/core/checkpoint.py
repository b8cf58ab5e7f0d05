"""Checkpoints: one safetensors file each, written atomically, never unpickled."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ups.core.errors import DataError
from ups.core.runtime import write_atomic

LAST, BEFORE, BEST = "last.safetensors", "before.safetensors", "best.safetensors"
"""of a stage: its latest state, the state before that one, should the latest be damaged, and its best weights"""


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, grouped by the first part of the name (`model.`, `ema.`, `optimizer.`), and plain facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        start = prefix + "."
        return {name[len(start) :]: value for name, value in self.tensors.items() if name.startswith(start)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name, flush, rename: a kill leaves the previous checkpoint or the new one."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    write_atomic(path, save(tensors, metadata={"facts": json.dumps(checkpoint.facts, allow_nan=False)}))


def keep_as(path: Path, name: Path) -> None:
    """Give a checkpoint that is about to be replaced another name, too, if there is one; a file system without hard
    links keeps none."""
    link = name.with_name(f".{name.name}")
    link.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(path, link)
        os.replace(link, name)


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises DataError, one line, for a file that is missing, truncated or not a checkpoint of this project."""
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged checkpoint ({error})") from None
    if "facts" not in metadata:
        raise DataError(f"{path}: not a checkpoint of this project, its facts are missing")
    return Checkpoint(tensors, json.loads(metadata["facts"]))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, named `index.key` in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

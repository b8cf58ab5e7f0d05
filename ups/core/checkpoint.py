"""Checkpoints: one safetensors file each, written atomically, checked when it is read, never unpickled."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ups.core.errors import DataError
from ups.core.runtime import write_atomic

LAST, BEST = "last.safetensors", "best.safetensors"
"""of a stage: its latest state, and its best weights; each has a copy beside it while the stage trains"""


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, grouped by the first part of the name (`model.`, `ema.`, `optimizer.`), and plain facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        start = prefix + "."
        return {name[len(start) :]: value for name, value in self.tensors.items() if name.startswith(start)}


def copy_of(path: Path) -> Path:
    """Where the second copy of a checkpoint lies: what damages one file in its place leaves the other."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name, flush, rename: a kill leaves the previous checkpoint or the new one."""
    write_atomic(path, _content(checkpoint))


def save_twice(path: Path, checkpoint: Checkpoint) -> None:
    """As `save_checkpoint`, and the copy after it: at every moment one of the two is whole, and none is older than the
    one before this."""
    content = _content(checkpoint)
    write_atomic(path, content)
    write_atomic(copy_of(path), content)


def load_checkpoint(path: Path) -> Checkpoint:
    """What was saved.

    Raises:
        DataError: in one line, the file is missing, not as it was written, or not a checkpoint of this project.
        OSError: it cannot be read now.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint")
    # safetensors maps the file: what cannot be read of it would end the process
    with open(path, "rb") as stream:
        while stream.read(2**20):
            pass
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{path}: damaged checkpoint ({error})") from None
    if "facts" not in metadata:
        raise DataError(f"{path}: not a checkpoint of this project, its facts are missing")
    # those of earlier versions have none
    if metadata.get("crc32", found := _checksum(tensors, metadata["facts"])) != found:
        raise DataError(f"{path}: damaged checkpoint (it is not what was written)")
    return Checkpoint(tensors, json.loads(metadata["facts"]))


def _content(checkpoint: Checkpoint) -> bytes:
    plain = {name: value.detach().cpu().resolve_conj().resolve_neg() for name, value in checkpoint.tensors.items()}
    tensors = {name: value.contiguous() for name, value in plain.items()}
    facts = json.dumps(checkpoint.facts, allow_nan=False)
    return save(tensors, metadata={"facts": facts, "crc32": _checksum(tensors, facts)})


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Of all that a checkpoint says; safetensors itself notices no byte of a tensor that has changed."""
    found = zlib.crc32(facts.encode())
    for name, value in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), found)
        # a single element may have any stride, and counts as contiguous
        content = value.as_strided((value.numel(),), (1,)).view(torch.uint8)
        found = zlib.crc32(content.numpy().data, found)
    return f"{found:08x}"


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

"""Device, seeds and threads: what a run needs of the machine it is on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from ups.core.schema import Schema


class RuntimeConfig(Schema):
    """How a run uses its machine. Only `seed` and `precision` may change what is learned."""

    seed: int = Field(0, ge=0, lt=2**31)
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: forward and loss under autocast, weights and optimizer in float32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch; null leaves torch's own choice (a trial of a search gets its CPUs)"""


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator determined by `key` alone: randomness that needs no state to resume."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, flush, fsync, rename: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

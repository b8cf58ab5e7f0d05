"""Device, seeds, threads, compilation and determinism: what a run needs of the machine it is on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from ups.core.errors import ConfigError
from ups.core.schema import Schema


class RuntimeConfig(Schema):
    """How a run uses its machine. Only `seed` and `precision` may change what is learned."""

    seed: int = Field(0, ge=0, lt=2**31)
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: forward and loss under autocast, weights and optimizer in float32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch; null leaves torch's own choice (a trial of a search gets its CPUs)"""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the trained parts while they are trained; auto: on CUDA. Rounding may differ"""
    deterministic: bool = False
    """refuse operations whose result varies from call to call on the same device; slower on CUDA"""

    @field_validator("compile", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        # YAML reads `on` and `off` as booleans
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def compiles(choice: str, device: torch.device) -> bool:
    """Whether to compile on this device.

    Raises:
        ConfigError: `on`, where the compiler that torch.compile calls is missing.
    """
    if choice == "off" or (choice == "auto" and device.type != "cuda"):
        return False
    missing = _missing_for_compile(device)
    if missing and choice == "on":
        raise ConfigError(f"runtime.compile: on needs {missing}, found none; install one or set it to off")
    return not missing


def _missing_for_compile(device: torch.device) -> str:
    named = os.environ.get("CXX" if device.type == "cpu" else "CC")
    names = ("g++", "clang++") if device.type == "cpu" else ("cc", "gcc", "clang")
    if not any(shutil.which(name) for name in ((named,) if named else names)):
        return "a C++ compiler (g++ or clang++)" if device.type == "cpu" else "a C compiler (gcc or clang)"
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "triton"
    return ""


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """The parts of `model` run compiled inside. Copies made before stay as they are."""
    parts = list(_compilable(model)) if wanted else []
    for part, name in parts:
        setattr(part, name, torch.compile(getattr(part, name), dynamic=False))
    try:
        yield
    finally:
        for part, name in parts:
            delattr(part, name)  # the method of its class is back


def _compilable(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The outermost modules that are called as such, and the method that does it: `forward`, or the `step` of a
    field-space model. Modules of torch itself are left out: dynamo does not look into them."""
    own = type(module)
    if hasattr(module, "step") and not getattr(module, "has_latent", True):
        yield module, "step"
    elif own.forward is not nn.Module.forward and not own.forward.__module__.startswith("torch."):
        yield module, "forward"
    else:
        for child in module.children():
            yield from _compilable(child)


@contextmanager
def deterministic_mode(on: bool) -> Iterator[None]:
    """torch refuses nondeterministic algorithms inside; what was set before is back afterwards."""
    if not on:
        yield
        return
    # cuBLAS reads this when it is first used in the process
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = flags


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """What is drawn from torch's global generators inside leaves no trace outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_all(device: torch.device, *key: int | str) -> None:
    """Set torch's global generators, of the CPU and of `device`, to a state determined by `key` alone.

    Not torch.manual_seed: without CUDA it formats the call stack for a later one, 0.5 ms each time.
    """
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[_index(device)].manual_seed(seed)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_gib` start anew: a worker trains one run after the other. Only Linux knows how on the CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gib(device: torch.device) -> float:
    """The most memory in use at once since the last reset: of the device on CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # macOS counts bytes, Linux KiB
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator determined by `key` alone: randomness that needs no state to resume."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int | str) -> int:
    """A number in [0, 2^63) determined by `key` alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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


def sha256_of(file: Path, *, flush: bool = False) -> str:
    """The checksum of a file; with `flush` its content is on the disk afterwards, and not only in memory."""
    with open(file, "rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """What this machine keeps of things that it can get again: $UPS_CACHE, or ~/.cache/ups."""
    return Path(os.environ.get("UPS_CACHE") or Path.home() / ".cache" / "ups")


def drop_half_line(path: Path) -> None:
    """Cut a last line that a kill, or a full disk, left unfinished: what is appended to it could never be read."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)

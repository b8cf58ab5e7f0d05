"""The golden YAML: a complete config together with the evidence for it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ups.config import RunConfig, diff, dump_yaml, load_config
from ups.core.errors import UserError
from ups.core.runtime import write_atomic

DISTRIBUTION = "universal-physics-stack"
_PACKAGES = ("torch", "numpy", "ray", "optuna")


def check_target(out: Path, replace: bool) -> None:
    """Refuse a target that could not, or must not, be written, before anything is trained for it.

    Raises:
        UserError: it exists and `replace` is false, is a folder, or lies where nothing may be written.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file such as {out / 'golden.yaml'}")
    if out.exists() and not replace:
        raise UserError(f"{out}: exists already; --replace compares with it and replaces it if it is beaten")
    folder = out.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{out}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{out}: no permission to write in {folder}")


def load_golden(path: Path, base: RunConfig) -> RunConfig:
    """The current golden, to be compared with.

    Raises:
        UserError: it is not a config, or it was made for another task than `base`.
    """
    golden = load_config(path)
    for key, (ours, theirs) in diff(base.task, golden.task).items():
        raise UserError(
            f"{path}: a golden of another task (task.{key} is {theirs} there and {ours} in the study), scores cannot "
            "be compared; write to another file"
        )
    return golden


def write_golden(out: Path, config: RunConfig, provenance: Mapping[str, Any], headline: str) -> RunConfig:
    """Write `config` with its provenance, atomically; returns what `load_config` reads from it."""
    golden = RunConfig.parse({**config.model_dump(mode="json"), "provenance": dict(provenance)})
    comment = "".join(f"# {line}\n" for line in headline.splitlines())
    write_atomic(out, (comment + dump_yaml(golden)).encode())
    return golden


def machine() -> dict[str, Any]:
    """What the seconds and the last digits of a score depend on."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (DISTRIBUTION, *_PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """Commit of the checkout that this code runs from, with `+changes` if it was edited; None outside of one."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # an installation inside somebody else's repository is not a checkout of ours
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = git("rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}+changes" if git("status", "--porcelain", "--untracked-files=no") else head


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

"""What a promotion needs of training, evaluation and data: three functions, which tests replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune.retrain import Train
from ups.config import RunConfig, load_config
from ups.core.runtime import pick_device
from ups.core.types import RunResult
from ups.data.task import load_task
from ups.evaluation.evaluate import evaluate_run
from ups.evaluation.report import FILE_NAME, save_report
from ups.inference.build import load_surrogate
from ups.run import train_run


@dataclass(frozen=True)
class Reading:
    """What one trained run does on the test split."""

    errors_S: tuple[float, ...]
    """rollout_nrmse of every test trajectory, physical units; inf where the rollout left the finite range"""
    metrics: Mapping[str, float | None]
    """as in `evaluate --json`"""


@dataclass(frozen=True)
class Parts:
    train: Train
    read_test: Callable[[Path], Reading]
    """the only way to the test split; its argument is a run's folder"""
    data_hash: Callable[[RunConfig], str]
    """fingerprint of the task's data and split; fails early if they cannot be read"""


def train_without_test(config: RunConfig, folder: Path, store: Path | str) -> RunResult:
    """Train, or go on with, a run of the folder; its test split stays unread."""
    return train_run(config, folder, resume=True, evaluate_on="none", store=store)


def read_test(folder: Path) -> Reading:
    """Score a trained run on its test split, and leave the report in its folder.

    Without what oracles and other budgets of its search at test time would do: no verdict needs them, and with beams
    they cost many times the reading. `ups evaluate` on the folder tells them.
    """
    config = load_config(folder / "config.yaml")
    task = load_task(config.task)
    device = pick_device(config.runtime.device)
    surrogate = load_surrogate(folder, str(device))
    report = evaluate_run(surrogate, task, "test")
    save_report(report, folder / FILE_NAME)
    return Reading(report.trajectory_nrmse, report.to_json()["metrics"])


def data_hash(config: RunConfig) -> str:
    return load_task(config.task).fingerprint


PARTS = Parts(train_without_test, read_test, data_hash)

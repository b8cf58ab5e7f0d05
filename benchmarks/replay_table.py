"""The recorded table as a trainer: what a run of a config would report, when, and how it would end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pairs import Data
from stage_grid import GROUPS

from ups.config import RunConfig
from ups.core.types import Status
from ups.training.stage_order import SEARCH

LATENTS = "latents"
"""stage -> what later stages train on, encoded once for each operator"""


@dataclass(frozen=True)
class Mark:
    """One validation."""

    seconds: float
    """CPU seconds since the stage began"""
    share: float
    """of the stage"""
    score: float
    """of what would be deployed"""


@dataclass(frozen=True)
class StageRun:
    """What the trainer does at one node."""

    stage: str
    status: Status
    marks: tuple[Mark, ...]
    seconds: float
    """CPU seconds of the whole stage, without the latents"""
    latents_seconds: float = 0.0
    """CPU seconds of encoding what the stage trains on, where nobody has done it yet"""
    inference_ms: float | None = None
    """of one step of one trajectory"""


class Table:
    """Every run of one seed."""

    def __init__(self, data: Data, seed: int) -> None:
        self.levels: Mapping[str, list[dict[str, Any]]] = data["protocol"]["levels"]
        steps = data["protocol"]["base"]["task"]["frames"] - 1
        nodes = {tuple(node["path"]): node for node in data["seeds"][str(seed)]}
        latents: dict[int, float] = {}
        for path, node in nodes.items():
            latents[path[0]] = max(latents.get(path[0], 0.0), node.get("cpu_pairs", 0.0))
        self._runs = {path: _run_of(path, node, latents[path[0]], steps) for path, node in nodes.items()}
        self._places = {
            stage: {json.dumps(level, sort_keys=True): index for index, level in enumerate(levels)}
            for stage, levels in self.levels.items()
        }

    @property
    def names(self) -> dict[str, list[Any]]:
        """Name of the space -> its values, in the order of the levels."""
        values: dict[str, dict[Any, None]] = {}
        for levels in self.levels.values():
            for level in levels:
                for name, value in level.items():
                    values.setdefault(name, {})[value] = None
        return {name: list(each) for name, each in values.items()}

    def path(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        """The node of a complete combination of values."""
        return tuple(
            self._places[stage][json.dumps({name: params[name] for name in levels[0]}, sort_keys=True)]
            for stage, levels in self.levels.items()
        )

    def path_of(self, config: RunConfig) -> tuple[int, ...]:
        """The node of a config; one that was not given a name has the base's value there."""
        flat = config.flat()
        return self.path({name: flat[name] for name in self.names})

    def run(self, path: tuple[int, ...]) -> list[StageRun]:
        """The stages of a run in their order, up to the one that did not complete."""
        stages: list[StageRun] = []
        for depth in range(1, len(GROUPS) + 1):
            stages.append(self._runs[path[:depth]])
            if stages[-1].status is not Status.COMPLETE:
                break
        return stages

    def final(self, path: tuple[int, ...]) -> float | None:
        """Score at the end of a run, None for one that does not complete."""
        last = self.run(path)[-1]
        return last.marks[-1].score if last.stage == SEARCH else None

    @property
    def finals(self) -> list[float]:
        """Final score of every run that completes, best first."""
        return sorted(run.marks[-1].score for run in self._runs.values() if run.stage == SEARCH)

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Mean CPU seconds of each stage that completed, latents apart."""
        sums: dict[str, list[float]] = {stage: [] for stage in [*GROUPS, LATENTS]}
        for path, run in self._runs.items():
            if run.status is Status.COMPLETE:
                sums[run.stage].append(run.seconds)
                if len(path) == 2:
                    sums[LATENTS].append(run.latents_seconds)
        return {stage: sum(each) / len(each) for stage, each in sums.items() if each}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Stage -> status -> number of nodes."""
        found: dict[str, dict[str, int]] = {stage: {} for stage in GROUPS}
        for run in self._runs.values():
            found[run.stage][str(run.status)] = found[run.stage].get(str(run.status), 0) + 1
        return found


def digest(data: Data) -> str:
    """What an answer computed from the table depends on."""
    known = [data["protocol"]["levels"], data["seeds"]]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _run_of(path: tuple[int, ...], node: Data, latents: float, steps: int) -> StageRun:
    stage, status = list(GROUPS)[len(path) - 1], Status(node["status"])
    if stage == SEARCH:
        # a worker's process measures the tolerances of the reward once; that is charged to nobody
        seconds = node["cpu_total"]
        milliseconds = node["inference_ms"] / steps
        return StageRun(stage, status, (Mark(seconds, 1.0, node["best"]),), seconds, 0.0, milliseconds)
    begin = node["cpu_prepared"]
    marks = tuple(
        Mark(begin + at, share, score)
        for at, share, score in zip(node["cpu"], node["shares"], node["scores"], strict=True)
        if score is not None
    )
    return StageRun(stage, status, marks, node["cpu_total"], latents if len(path) == 2 else 0.0)

"""The record of a promotion: what was found, how it is told, and the story that goes into the golden."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tune import golden
from tune.confirm import CONFIDENCE, Comparison
from tune.contenders import Contender, identity
from tune.study import StudyFolder
from ups.config import RunConfig

RECORD = "promotion.json"
"""in the study folder: what its latest promotion found"""


@dataclass(frozen=True)
class Promotion:
    """Everything that a promotion found; `written` says whether the golden is there."""

    study: str
    out: Path
    seeds: tuple[int, ...]
    data: str
    """fingerprint of the task's data and split"""
    contenders: tuple[Contender, ...] = ()
    """the candidates in the order of their search scores, then what they are compared with"""
    passed_over: Mapping[str, str] = field(default_factory=dict)
    """contender with a better mean than the winner -> the constraint that it broke on a fresh seed"""
    winner: str | None = None
    reference: str = "base"
    """what the winner has to beat: `base` or `golden`"""
    comparison: Comparison | None = None
    """winner against reference on the test split; None if it was not read"""
    test: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """contender -> seed -> mean rollout_nrmse on test, of the two whose test errors were read"""
    baselines: Mapping[str, float | None] = field(default_factory=dict)
    """rollout_nrmse on test of what anyone can do: persistence, the initial mean, the coarse solver"""
    noise_floor: Mapping[str, float | None] = field(default_factory=dict)
    """split -> standard deviation over seeds: of the base on `validation`, of the reference on `test`"""
    test_reads: Mapping[str, int] = field(default_factory=dict)
    """how often the test split was read: `in_this_study`, and in `total` with what earlier goldens record"""
    core_seconds: Mapping[str, float] = field(default_factory=dict)
    confirmed: bool = False
    written: bool = False
    verdict: str = ""

    def contender(self, name: str) -> Contender:
        return next(contender for contender in self.contenders if contender.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain data for promotion.json; the configs themselves are in the golden file and the run folders."""
        return {
            **vars(self),
            "out": self.out.name,
            "contenders": [contender.to_json() for contender in self.contenders],
            "comparison": asdict(self.comparison) if self.comparison else None,
            "test": {
                name: {seed: finite(score) for seed, score in scores.items()} for name, scores in self.test.items()
            },
        }


def summary(found: Promotion) -> list[str]:
    """What a promotion came to, line by line."""
    lines = []
    for contender in found.contenders:
        scores = ", ".join(shown(run.score) if run.complete else str(run.status) for run in contender.runs)
        average = f", mean {shown(contender.mean_score)}" if contender.is_complete else ""
        lines.append(f"{contender.name}: validation {scores}{average}")
    lines += [f"{name} was passed over: {why}" for name, why in found.passed_over.items()]
    if found.comparison and found.winner:
        better = found.comparison
        ours, theirs = (mean(found.test[name].values()) for name in (found.winner, found.reference))
        lines.append(
            f"test: {found.winner} {shown(ours)}, {found.reference} {shown(theirs)}; improvement "
            f"{shown(better.improvement)}, {CONFIDENCE:.0%} interval {shown(better.low)} to {shown(better.high)} "
            f"over {len(better.per_seed)} seeds and {better.trajectories} trajectories, "
            f"noise floor {shown(found.noise_floor['test'])}"
        )
    lines.append(found.verdict)
    if found.written:
        lines.append(f"wrote {found.out}" + ("" if found.confirmed else " (confirmed: false)"))
    return lines


def provenance(found: Promotion, study: StudyFolder, current: RunConfig | None, config: RunConfig) -> dict[str, Any]:
    """The story of the golden `config`; `current` is the golden that it replaces."""
    assert found.winner is not None
    winner, reference = found.contender(found.winner), found.contender(found.reference)
    comparison = found.comparison
    sides = {"golden": winner, "reference": reference}
    parent = current or (study.base if study.base.provenance else None)
    return {
        "confirmed": found.confirmed,
        "verdict": found.verdict,
        "study": found.study,
        "trial": winner.trial,
        "parent_golden": _parent(parent, found.out.name if current else study.config.base),
        "compared_with": found.reference,
        "data": found.data,
        "seeds": list(found.seeds),
        "scores": {
            side: {
                "validation": [run.score if run.complete else None for run in contender.runs],
                "test": [finite(found.test.get(contender.name, {}).get(seed)) for seed in found.seeds],
            }
            for side, contender in sides.items()
        },
        "mean": {
            side: {
                "validation": contender.mean_score,
                "test": mean(found.test.get(contender.name, {}).values()),
            }
            for side, contender in sides.items()
        },
        "improvement": {
            "mean": comparison.improvement,
            "interval": [comparison.low, comparison.high],
            "confidence": CONFIDENCE,
            "per_seed": list(comparison.per_seed),
            "trajectories": comparison.trajectories,
        }
        if comparison
        else None,
        "noise_floor": {split: finite(value) for split, value in found.noise_floor.items()},
        "objectives": [objective.metric for objective in study.config.objectives],
        "constraints": {name: limit.max for name, limit in study.config.constraints.items()},
        "measured": {side: [dict(run.metrics) for run in contender.runs] for side, contender in sides.items()},
        "passed_over": dict(found.passed_over),
        "test_baselines": dict(found.baselines),
        "expected": {
            "seed": config.runtime.seed,
            "validation_rollout_nrmse": winner.runs[0].score,
            "test_rollout_nrmse": finite(found.test.get(winner.name, {}).get(found.seeds[0])),
            # the clock decides how many steps fit into a limit
            "repeats_exactly": all(stage.time_limit_seconds is None for _, stage in config.stages),
        },
        "changed": {path: dict(values) for path, values in winner.changed.items()},
        "test_split_reads": dict(found.test_reads),
        "core_seconds": dict(found.core_seconds),
        "commit": golden.commit(),
        "hardware": golden.machine(),
        "versions": golden.versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _parent(config: RunConfig | None, name: str) -> dict[str, Any] | None:
    """Which golden this one follows: the one replaced, or the one that was the base."""
    if config is None:
        return None
    story = config.provenance or {}
    return {
        "file": Path(name).name,
        "config": identity(config),
        "study": story.get("study"),
        "trial": story.get("trial"),
    }


def mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return finite(float(np.mean(numbers))) if numbers else None


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"

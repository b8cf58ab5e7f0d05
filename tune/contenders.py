"""Who takes part in a confirmation: the best trials, the base, the current golden, and seeds new to all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune.objectives import is_eligible, pareto_front
from tune.retrain import Retraining
from tune.study import StudyFolder
from ups.config import RunConfig, diff
from ups.core.schema import fingerprint
from ups.core.types import Status
from ups.training.stage_config import LoggingConfig


@dataclass(frozen=True)
class Contender:
    """A config that is retrained, and how that went."""

    name: str
    """`trial 7`, `base` or `golden`"""
    trial: int | None
    config: RunConfig
    search_score: float | None
    """validation rollout_nrmse in the search, from the one seed that all its trials share"""
    changed: Mapping[str, Mapping[str, Any]]
    """path -> {"base": value there, "here": value here}"""
    runs: tuple[Retraining, ...] = ()
    """one for every fresh seed, in their order"""

    @property
    def folder(self) -> str:
        """Prefix of its run folders: two goldens of different content never share one."""
        if self.name == "golden":
            return f"golden-{identity(self.config)[:8]}"
        return self.name.replace(" ", "")

    @property
    def is_complete(self) -> bool:
        """Every one of its seeds came through: a config that sometimes explodes is no golden."""
        return bool(self.runs) and all(run.complete for run in self.runs)

    @property
    def mean_score(self) -> float | None:
        """Mean validation rollout_nrmse over the fresh seeds; None unless all of them came through."""
        return float(np.mean([run.score for run in self.runs])) if self.is_complete else None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trial": self.trial,
            "search_score": self.search_score,
            "mean_score": self.mean_score,
            "changed": self.changed,
            "runs": [run.to_json() for run in self.runs],
        }


def choose(study: StudyFolder, top: int, current: RunConfig | None) -> tuple[list[Contender], Contender, Contender]:
    """The candidates by score, the base, and what the winner has to beat: the current golden, or else the base.

    Only trials that ran to the end and hold the constraints count, each config once; of a study with several
    objectives only its Pareto front, by the error. The base and the golden are no candidates, unless one of them leads
    the search: then it is the one to beat, and it says so.
    """
    base = Contender("base", None, _plain(study.base), None, {})
    reference = base
    if current is not None and identity(current) != identity(study.base):
        reference = Contender("golden", None, _plain(current), None, differences(study.base, current))
    known = {identity(base.config): base, identity(reference.config): reference}

    if len(study.config.objectives) > 1:
        ranked = list(pareto_front(study.trials, study.config))
    else:
        ranked = [trial for trial in study.trials if is_eligible(trial, study.config)]
        ranked.sort(key=lambda trial: (trial.score, trial.number))
    candidates: list[Contender] = []
    seen: set[str] = set()
    for rank, trial in enumerate(ranked):
        config = _plain(study.config_of(trial))
        key = identity(config)
        if key in seen or (key in known and rank > 0):
            continue
        seen.add(key)
        if key in known:
            candidates.append(known[key])
        else:
            name = f"trial {trial.number}"
            candidates.append(Contender(name, trial.number, config, trial.score, differences(study.base, config)))
        if len(candidates) == top:
            break
    return candidates, base, reference


def fresh_seeds(study: StudyFolder, current: RunConfig | None, count: int) -> tuple[int, ...]:
    """`count` seeds that neither the search nor any golden in play was selected on.

    The same for the same study and golden, so that a promotion can be taken up again.
    """
    used = {study.base.runtime.seed, study.config.strategy.seed}
    used |= {study.config_of(trial).runtime.seed for trial in study.trials if trial.state is Status.COMPLETE}
    for config in (study.base, current):
        if config is not None:
            used |= {config.runtime.seed, *(config.provenance or {}).get("seeds", ())}
    space = {name: domain.model_dump(mode="json") for name, domain in study.config.space.items()}
    draw = random.Random(fingerprint([identity(study.base), space]))
    seeds: list[int] = []
    while len(seeds) < count:
        seed = draw.randrange(1_000, 1_000_000)
        if seed not in used:
            used.add(seed)
            seeds.append(seed)
    return tuple(seeds)


def identity(config: RunConfig) -> str:
    """Equal for configs that differ at most in seed, threads, logging and provenance."""
    neutral = {"provenance": None, "runtime.seed": 0, "runtime.threads": None}
    data = config.override(neutral).model_dump(mode="json")
    data.pop("logging", None)
    return fingerprint(data)


def differences(base: RunConfig, config: RunConfig) -> dict[str, dict[str, Any]]:
    """Every path in which `config` differs from `base`, seed and threads aside, with both values."""
    return {
        path: {"base": theirs, "here": ours}
        for path, (theirs, ours) in diff(_plain(base), _plain(config)).items()
        if path not in ("runtime.seed", "runtime.threads")
    }


def _plain(config: RunConfig) -> RunConfig:
    """Without the story of where it came from, and with nothing said of what is written on the way."""
    return config.model_copy(update={"provenance": None, "logging": LoggingConfig()})

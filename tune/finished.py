"""A finished run as the base of a search: its stages lie in its store, and no trial trains one of them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tune.checks import RANDOM_DRAWS, random_value
from tune.domain import Value
from tune.space import Space
from tune.study import Plan
from ups.config import RunConfig, diff, load_config
from ups.core.errors import ConfigError, UserError
from ups.core.remote_store import open_store
from ups.core.types import Status
from ups.data.task import load_task
from ups.evaluation.runs import load_result
from ups.training.keys import stage_keys

CONFIG = "config.yaml"


def config_of_finished(run: Path) -> Path:
    """The config file of a run that came to its end.

    Raises:
        UserError: there is no such run, or it has nothing to search on.
    """
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: no run here ({CONFIG} is missing)")
    result = load_result(run)
    if result.status is not Status.COMPLETE:
        raise UserError(f"{run}: ended {result.status}, a search with --run needs a run that is COMPLETE")
    return run / CONFIG


def check_trains_nothing(plan: Plan, run: Path, store: Path | str) -> None:
    """Refuse a search on a finished run whose trials would not find all of their stages.

    Raises:
        UserError: `store` lacks a stage of the run, or an override, a path of the space or a config of `start_from`
            asks for another one; or the task's data cannot be read.
    """
    given = load_config(run / CONFIG)
    stages = _Stages(load_task(plan.base.task).fingerprint, store)
    for name, key in stages.keys(given).items():
        if stages.store.find(key) is None:
            raise UserError(
                f"{store}: does not hold the stage {name} of {run}, so every trial would train it again; give the "
                "store that it was trained into with --store (it is not found either when the data changed since)"
            )
    for origin, config in (("the base", plan.base), *zip(plan.config.start_from, plan.start_from, strict=True)):
        other = stages.other_than(given, config)
        if other is not None:
            changed = ", ".join(path for path in diff(given, config) if not path.startswith("ttc."))
            raise ConfigError(f"{changed}: {origin} {_refusal(other)}")
    _check_space(plan.space, stages, given)


class _Stages:
    """What the stages of a config are called in the store."""

    def __init__(self, data: str, store: Path | str) -> None:
        self._data, self.store = data, open_store(store)

    def keys(self, config: RunConfig) -> dict[str, str]:
        return stage_keys(config, self._data)

    def other_than(self, given: RunConfig, config: RunConfig) -> str | None:
        """The first stage of `config` that is none of `given`; one that it leaves out costs nothing."""
        known = set(self.keys(given).values())
        return next((name for name, key in self.keys(config).items() if key not in known), None)


def _check_space(space: Space, stages: _Stages, given: RunConfig) -> None:
    """Whether a value enters a stage depends on its path: the ends, and random combinations, stand for all."""
    random = np.random.default_rng(0)
    for name in (name for name in space.order if name not in space.switches):
        for end in space.domains[name].ends:
            other = _other_at(space, stages, given, space.context(name) | {name: end})
            if other is not None:
                raise ConfigError(f"space.{name}: {_refusal(other)}")
    for _ in range(RANDOM_DRAWS):
        params = space.draw(lambda _, domain: random_value(domain, random))
        other = _other_at(space, stages, given, params)
        if other is not None:
            raise ConfigError(f"space.{', '.join(params)}: together {_refusal(other)}")


def _other_at(space: Space, stages: _Stages, given: RunConfig, params: dict[str, Value]) -> str | None:
    try:
        config = space.config_of(params)
    except ConfigError:  # an INFEASIBLE trial trains nothing
        return None
    return stages.other_than(given, config)


def _refusal(stage: str) -> str:
    return f"changes the stage {stage}, which would be trained again; a search with --run varies what trains nothing"

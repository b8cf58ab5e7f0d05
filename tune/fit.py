"""What only the data can tell of a config: whether its model fits, how large it is, what its stages are called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tune.driver import Check, Keys
from tune.study import Plan
from ups.config import RunConfig
from ups.core.schema import fingerprint
from ups.core.types import FieldSpec
from ups.data.task import load_task
from ups.run import count_correction, count_model
from ups.training.keys import stage_keys

_MODEL = ("symmetry", "latent", "encoder", "operator", "decoder", "baseline")
_CORRECTION = ("latent", "corrector")
"""parts of a config that the two are built from"""


def fit_to_data(plan: Plan) -> tuple[Check, Keys]:
    """Read the data once, before anything is written, and check the given configs against it.

    Raises:
        UserError: the data cannot be read, or a given config does not fit it.
    """
    task = load_task(plan.base.task)
    check = check_on(task.spec)
    for config in (plan.base, *plan.start_from):
        check(config)
    return check, keys_on(task.fingerprint)


def check_on(spec: FieldSpec) -> Check:
    """Number of weights of a config's model, for data like this.

    A model and a correction are counted once each, as that takes some 10 ms: trials share them.
    """
    counts: dict[str, int] = {}

    def count(key: list[Any], build: Callable[[], int]) -> int:
        name = fingerprint(key)
        if name not in counts:
            counts[name] = build()
        return counts[name]

    def check(config: RunConfig) -> int:
        if config.ttc.enabled:
            config.ttc.reward.weights(spec)
        whole = config.model_dump(mode="json")
        for trunk in (whole["operator"], whole["corrector"]):
            trunk["drop_path"] = 0.0
        # what sampling and the search at test time are given does not change a model
        weights = count([whole[part] for part in _MODEL], lambda: count_model(config, spec))
        for stage in config.stages.later():
            parts = [stage, *(whole[part] for part in _CORRECTION)]
            weights += count(parts, partial(count_correction, config, stage, spec))
        return weights

    return check


def keys_on(data: str) -> Keys:
    """Names of stages on the data with this fingerprint."""
    return lambda config: stage_keys(config, data)

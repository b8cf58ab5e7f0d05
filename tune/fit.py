"""What only the data can tell of a config: whether its model fits, how large it is, what its stages are called."""

from __future__ import annotations

from tune.driver import Check, Keys
from tune.study import Plan
from ups.config import RunConfig
from ups.data.task import load_task
from ups.run import count_parameters
from ups.training.keys import stage_keys


def fit_to_data(plan: Plan) -> tuple[Check, Keys]:
    """Read the data once, before anything is written, and check the given configs against it.

    Raises:
        UserError: the data cannot be read, or a given config does not fit it.
    """
    task = load_task(plan.base.task)
    spec, fingerprint = task.spec, task.fingerprint

    def check(config: RunConfig) -> int:
        if config.ttc.enabled:
            config.ttc.reward.weights(spec)
        return count_parameters(config, spec)

    for config in (plan.base, *plan.start_from):
        check(config)
    return check, keys_on(fingerprint)


def keys_on(data: str) -> Keys:
    """Names of stages on the data with this fingerprint."""
    return lambda config: stage_keys(config, data)

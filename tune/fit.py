"""What only the data can tell of a config: whether its model fits, how large it is, what its stages are called."""

from __future__ import annotations

from tune.driver import Check, Keys
from tune.study import Plan
from ups.config import RunConfig
from ups.core.schema import fingerprint
from ups.core.types import FieldSpec
from ups.data.task import load_task
from ups.run import count_parameters
from ups.training.keys import stage_keys

_BUILT = ("symmetry", "latent", "encoder", "operator", "decoder", "corrector", "baseline")
"""parts of a config that a model is built from"""


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

    Counted once for each model, as that takes some 10 ms: trials that branch below a finished stage share it.
    """
    counts: dict[str, int] = {}

    def check(config: RunConfig) -> int:
        if config.ttc.enabled:
            config.ttc.reward.weights(spec)
        # what sampling and the search at test time are given does not change a model
        whole = config.model_dump(mode="json")
        model = fingerprint([*(whole[part] for part in _BUILT), config.stages.later()])
        if model not in counts:
            counts[model] = count_parameters(config, spec)
        return counts[model]

    return check


def keys_on(data: str) -> Keys:
    """Names of stages on the data with this fingerprint."""
    return lambda config: stage_keys(config, data)

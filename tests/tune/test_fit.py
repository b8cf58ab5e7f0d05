"""What the data says of a config."""

from __future__ import annotations

import numpy as np
import pytest

from tune import fit
from tune.checks import load_plan_from_space, random_value
from tune.fit import check_on
from ups.core.types import FieldSpec
from ups.run import count_parameters

SPEC = FieldSpec("burgers", (128,), 1, 1.0, 0.01, ("nu",))


def test_weights_are_counted_once_for_each_model_and_are_those_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_plan_from_space("burgers1d_small").space
    random, counted = np.random.default_rng(0), []
    monkeypatch.setattr(fit, "count_parameters", lambda *given: counted.append(given) or count_parameters(*given))
    check = check_on(SPEC)
    for _ in range(12):
        config = space.config_of(space.draw(lambda name, domain: random_value(domain, random)))
        # neither what trains nor what searches with a model changes it
        same = config.override({"stages.operator.optimizer.lr": 1e-3, "inference.temperature": 0.5})
        counted.clear()
        assert check(config) == check(same) == count_parameters(same, SPEC)
        assert len(counted) == 1
        other = config.override({"latent.dim": 2 * config.latent.dim})
        assert check(other) == count_parameters(other, SPEC) != check(config)

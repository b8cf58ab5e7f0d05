"""What the data says of a config."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tune import fit
from tune.checks import load_plan_from_space, random_value
from tune.fit import check_on
from ups.core.types import FieldSpec
from ups.run import count_correction, count_model, count_parameters

SPEC = FieldSpec("burgers", (128,), 1, 1.0, 0.01, ("nu",))


def test_weights_are_counted_once_for_each_model_and_are_those_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_plan_from_space("burgers1d_small").space
    random, counted = np.random.default_rng(0), []

    def watched(count: Callable[..., int]) -> Callable[..., int]:
        return lambda *given: counted.append(count.__name__) or count(*given)

    for count in (count_model, count_correction):
        monkeypatch.setattr(fit, count.__name__, watched(count))
    check = check_on(SPEC)
    for _ in range(12):
        config = space.config_of(space.draw(lambda name, domain: random_value(domain, random)))
        # neither what trains nor what searches with a model changes it
        same = config.override({
            **{"stages.operator.optimizer.lr": 1e-3, "inference.temperature": 0.5},
            **{"operator.drop_path": 0.3, "corrector.drop_path": 0.2},
        })  # fmt: skip
        counted.clear()
        assert check(config) == count_parameters(config, SPEC)
        # latents and correctors of a size are soon known all
        assert counted.count("count_model") == 1
        counted.clear()
        assert check(same) == count_parameters(same, SPEC) == check(config)
        assert counted == []
        other = config.override({"latent.dim": 2 * config.latent.dim})
        assert check(other) == count_parameters(other, SPEC) != check(config)

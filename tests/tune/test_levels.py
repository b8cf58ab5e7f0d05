"""At which stage a name matters: names of a level leave every stage above it as it is called."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_search import CANDIDATES, EPOCHS, LR, RATE, THREE, keys_of

from tune.checks import load_plan_from_space, random_value
from tune.levels import STAGES, levels_of
from tune.space import SearchConfig, Space
from ups.core.errors import ConfigError

SHIPPED = ("burgers1d", "burgers1d_small", "demo", "ablation_inverse", "ablation_operator")
SEARCH = len(STAGES) - 1


@lru_cache
def shipped(name):
    space = load_plan_from_space(name).space
    return space, levels_of(space)


def space_of(base, domains):
    return Space(SearchConfig.parse({"base": "base.yaml", "space": domains}).space, base)


def drawn(space, random):
    """A combination that the config takes."""
    while True:
        params = space.draw(lambda name, domain: random_value(domain, random))
        try:
            space.config_of(params)
        except ConfigError:
            continue
        return params


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_differs_from_a_level_on_leaves_the_stages_above_it_alone(name, seed):
    space, levels = shipped(name)
    random = np.random.default_rng(seed)
    params = drawn(space, random)
    level = int(random.choice(sorted({*levels.values(), SEARCH})))
    other = space.draw(
        lambda path, domain: params[path] if levels[path] < level and path in params else random_value(domain, random)
    )
    try:
        theirs = keys_of(space.config_of(other))
    except ConfigError:
        return
    ours = keys_of(space.config_of(params))
    for stage in STAGES[:level]:
        assert ours.get(stage) == theirs.get(stage), (level, stage, params, other)


@pytest.mark.parametrize("name", ["burgers1d", "burgers1d_small"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_settings_of_the_search_at_test_time_retrain_nothing(name, seed):
    space, levels = shipped(name)
    random = np.random.default_rng(seed)
    params = drawn(space, random)
    below = {path for path in levels if path.startswith("ttc.")}
    assert {levels[path] for path in below} == {SEARCH}
    other = space.draw(lambda path, domain: random_value(domain, random) if path in below else params[path])
    try:
        found = keys_of(space.config_of(other))
    except ConfigError:
        return
    assert found == keys_of(space.config_of(params))


def test_each_name_has_the_first_stage_that_it_changes(base):
    assert levels_of(space_of(base, THREE)) == {LR: 0, EPOCHS: 1, RATE: 1, "ttc.enabled": SEARCH, CANDIDATES: SEARCH}


def test_what_decides_whether_a_name_is_there_lies_no_lower_than_it(base):
    weight = "stages.operator.losses.inverse_encoding.weight"
    space = space_of(
        base,
        {
            "inverse": {"choice": [False, True]},
            weight: {"float": [0.1, 0.5], "when": {"inverse": True}},
            "late": {"choice": ["a", "b"]},
            CANDIDATES: {"int": [2, 9], "when": {"late": "b", "ttc.enabled": True}},
            "ttc.enabled": {"choice": [False, True]},
        },
    )
    levels = levels_of(space)
    assert levels["inverse"] == levels[weight] == 0
    assert levels["late"] == SEARCH


def test_a_stage_that_no_config_has_is_nobodys_level(base):
    later = "stages.consistency_distill.optimizer.lr"
    space = space_of(base, {later: {"float": [1e-4, 1e-2]}, LR: {"float": [1e-4, 1e-2]}})
    assert levels_of(space) == {later: SEARCH, LR: 0}
    assert levels_of(space_of(base.override({EPOCHS: 2, "stages.consistency_distill.epochs": 2}), space.domains)) == {
        later: STAGES.index("consistency_distill"),
        LR: 0,
    }

"""At which stage of a run a name of the space first matters: what trials may share, and what lies below a branch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tune.checks import random_value
from tune.space import Space
from ups.config import RunConfig
from ups.core.errors import ConfigError
from ups.training.keys import stage_keys
from ups.training.stage_order import DEPLOYED_AS, SEARCH

STAGES = ("operator", *DEPLOYED_AS, SEARCH)
"""every stage in the order of a run; the last one, the search at test time, trains nothing"""
_DRAWS = 4
"""random contexts beside the simplest one in which a name is probed: what its values change may hang on others"""


def levels_of(space: Space) -> dict[str, int]:
    """Name -> index in `STAGES` of the first stage that is another one when the value is another one.

    Found by asking what the stages of configs are called: two configs that differ in a name alone share every stage
    above its level. A name that decides whether another is active lies no lower than that one.
    """
    random = np.random.default_rng(0)
    found = {name: _level(name, space, random) for name in space.order if name not in space.switches}
    levels = {name: found.get(name, len(STAGES) - 1) for name in space.order}
    for name in reversed(space.order):
        for other in space.domains[name].when:
            if other in levels:
                levels[other] = min(levels[other], levels[name])
    return levels


def _level(name: str, space: Space, random: np.random.Generator) -> int:
    ends = space.domains[name].ends
    lowest = len(STAGES) - 1
    for context in _contexts(name, space, random):
        chains = [_chain(space, context | {name: end}) for end in ends]
        for one, other in itertools.pairwise(chain for chain in chains if chain is not None):
            changed = (index for index, stage in enumerate(STAGES) if one.get(stage) != other.get(stage))
            lowest = min(lowest, next(changed, lowest))
    return lowest


def _contexts(name: str, space: Space, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    needed = space.context(name)
    yield needed
    for _ in range(_DRAWS):
        drawn = space.draw(lambda other, domain: needed.get(other, random_value(domain, random)))
        if name in drawn:
            yield drawn


def _chain(space: Space, values: Mapping[str, Any]) -> dict[str, str] | None:
    """Stage -> what it is called; None for a combination that the config refuses."""
    try:
        config: RunConfig = space.config_of(values)
    except ConfigError:
        return None
    return stage_keys(config, "")

"""Which trajectories train, validate and test: decided by number, before anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ups.core.errors import DataError

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Numbers of the trajectories of each part, ascending.

    PDEBench's files share their initial conditions across parameters, so the same numbers hold in every file
    of a task: what is tested at one viscosity was not trained at another.

    Raises:
        DataError: a trajectory stands twice, or a number is negative.
    """

    seed: int
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    def __post_init__(self) -> None:
        owner: dict[int, str] = {}
        for name in NAMES:
            for number in getattr(self, name):
                if number in owner:
                    raise DataError(f"split: trajectory {number} is in {owner[number]} and again in {name}")
                if number < 0:
                    raise DataError(f"split: trajectory {number} of {name} does not exist")
                owner[number] = name

    def to_json(self) -> dict[str, Any]:
        return {"seed": self.seed, **{name: list(getattr(self, name)) for name in NAMES}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Split:
        """The split of a saved manifest; further keys are left alone.

        Raises:
            DataError: a part is missing, or the parts overlap.
        """
        missing = [key for key in ("seed", *NAMES) if key not in data]
        if missing:
            raise DataError(f"split: '{missing[0]}' is missing")
        return cls(data["seed"], *(tuple(data[name]) for name in NAMES))


def split_trajectories(available: int, *, train: int, validation: int, test: int, seed: int) -> Split:
    """Draw the parts without replacement from trajectories 0 .. available - 1.

    Determined by the arguments alone. The test part is drawn first and the training part last: asking for
    more training trajectories leaves test and validation as they are.

    Raises:
        DataError: fewer trajectories than wanted.
    """
    wanted = train + validation + test
    if wanted > available:
        raise DataError(
            f"split: {train} train + {validation} validation + {test} test = {wanted} trajectories wanted, "
            f"{available} available"
        )
    order = np.random.default_rng([seed, available]).permutation(available)
    parts = np.split(order, [test, test + validation, wanted])[:3]
    tested, validated, trained = (tuple(sorted(map(int, part))) for part in parts)
    return Split(seed, trained, validated, tested)

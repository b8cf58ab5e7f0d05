"""Errors of two models on the same seeds and trajectories, compared. N seeds, S trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from common import number, table

from ups.evaluation.paired import paired

Data = dict[str, Any]
"""plain JSON"""

Errors = Mapping[int, Sequence[float | None]]
"""seed -> error of each trajectory; None where it left the finite range"""

PROTOCOLS = {
    "one_step": "one step",
    "reencode": "40 frames from one, re-encoded",
    "latent": "40 frames from one, latent",
    "from_tenth": "31 frames from the tenth",
}


def compared(ours: Errors, theirs: Errors, names: tuple[str, str]) -> Data | None:
    """Ratio and difference of errors on the seeds that both have, with intervals, and the verdict in words.

    A ratio below 1 and a difference below 0 say that the first is better. None for fewer than two seeds, or where an
    error is not finite and positive.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    left, right = (np.array([infinite(side[seed]) for seed in seeds]) for side in (ours, theirs))
    if len(seeds) < 2 or not all(np.isfinite(side).all() and (side > 0).all() for side in (left, right)):
        return None
    found = paired(left, right)
    better = names[0] if found.difference < 0 else names[1]
    return {
        "seeds": seeds,
        "ratio_of_means": found.ratio,
        "typical_ratio": found.typical_ratio,
        "low": found.typical_low,
        "high": found.typical_high,
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "decided": found.decided,
        "verdict": f"{better} better" if found.decided else f"undecided, {found.reason}",
    }


def pair_table(names: Sequence[str], rows: Sequence[tuple[Sequence[str], Data]]) -> str:
    """A table of comparisons; `names` are the columns that say what is compared, and each row fills them."""
    if not rows:
        return "Too few runs completed to compare them."
    header = [*names, "ratio of means", "typical ratio (95 %)", "difference of means (95 %)", "verdict"]
    return table(header, [[*words, *_cells(found)] for words, found in rows])


def _cells(found: Data) -> list[str]:
    return [
        number(found["ratio_of_means"]),
        f"{number(found['typical_ratio'])} ({number(found['low'])} to {number(found['high'])})",
        f"{number(found['difference'])} ({number(found['difference_low'])} to {number(found['difference_high'])})",
        found["verdict"],
    ]


def mean_error(errors: Sequence[float | None]) -> float:
    """Mean over trajectories, inf where one diverged."""
    return fmean(infinite(errors))


def infinite(errors: Sequence[float | None]) -> list[float]:
    """JSON's null as what it stands for."""
    return [math.inf if error is None else error for error in errors]

"""What a generator of one equation consists of; each sibling file holds one. X.. cells of each axis, C channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
Draw = Callable[[int, int, int], Array64]
"""(seed, trajectory, cells along each axis) -> the initial or given field (X.., C)"""
Solve = Callable[[Array64, Mapping[str, float], float, int, float], Array64]
"""(initial (X.., C), parameters, dt, frames, length) -> (T, X.., C), the first frame being the initial one"""


@dataclass(frozen=True)
class Generator:
    """Draws initial fields and solves; what is not asked for is what stands here."""

    draw: Draw
    solve: Solve
    parameters: dict[str, float]
    """one value for every parameter of the equation"""
    trajectories: int = 1024
    cells: int = 1024
    """along each axis"""
    frames: int = 201
    dt: float = 0.01
    length: float = 1.0
    """of the domain along each axis"""
    attributes: dict[str, str] = field(default_factory=dict)
    """what the file must say because PDEBench's files of the equation differ"""


def cell_centres(cells: int) -> Array64:
    """Of the unit interval."""
    return (np.arange(cells) + 0.5) / cells

"""A table of made-up learning curves with the shape of a recorded one: a third of the operators explodes or stalls,
curves fall, corrections help poor operators, a search helps a little."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from stage_grid import Grid

from ups.config import load_config

SECONDS = (7.0, 2.0, 1.5, 0.4)


def made_table(grid: Grid, seed: int = 0) -> dict[str, Any]:
    """What `stage_table.collect` gives, for one seed."""
    random = np.random.default_rng(seed)
    nodes: list[dict[str, Any]] = []
    for (operator,) in grid.prefixes(1):
        quality = math.exp(random.normal(-2.0, 0.6))
        status = ["COMPLETE", "COMPLETE", "EXPLODED", "COMPLETE", "COMPLETE", "STALLED"][operator % 6]
        end = 0.5 if status != "COMPLETE" else 1.0
        nodes.append(_node((operator,), 8, quality, random, status=status, end=end))
        if status != "COMPLETE":
            continue
        for path in [path for path in grid.prefixes(2) if path[:1] == (operator,)]:
            after_diffusion = quality * min(1.0, math.exp(random.normal(-0.02, 0.08)))
            pairs = 4.0 if path[1] == 0 else 0.0
            nodes.append(_node(path, 4, after_diffusion, random, above=quality, pairs=pairs))
            for below in [each for each in grid.prefixes(3) if each[:2] == path]:
                after_student = after_diffusion * min(1.0, math.exp(random.normal(0.0, 0.02)))
                nodes.append(_node(below, 2, after_student, random, above=after_diffusion))
                for leaf in range(len(grid.levels["inference"])):
                    best = after_student * (1 - 0.005 * leaf)
                    nodes.append({
                        **{"path": [*below, leaf], "status": "COMPLETE", "after": best, "best": best},
                        **{"cpu_fit": 0.2, "cpu_tolerances": 1.0, "cpu_total": 0.4, "inference_ms": 10.0},
                        "deployed": list(below),
                    })  # fmt: skip
    base = load_config(grid.base).model_dump(mode="json")
    return {"protocol": {"levels": grid.levels, "base": base, "seeds": [seed]}, "seeds": {str(seed): nodes}}


def _node(
    path: tuple[int, ...],
    validations: int,
    score: float,
    random: np.random.Generator,
    *,
    above: float = 1.0,
    status: str = "COMPLETE",
    end: float = 1.0,
    pairs: float = 0.0,
) -> dict[str, Any]:
    shares = [k / validations for k in range(1, validations + 1) if k / validations <= end]
    seconds = SECONDS[len(path) - 1] * math.exp(random.normal(0.0, 0.2))
    scores = [score + (above - score) * math.exp(-4 * share) * (share < 1) for share in shares]
    return {
        **{"path": list(path), "status": status, "shares": shares, "scores": scores},
        **{"cpu": [share * seconds for share in shares], "cpu_total": end * seconds + 0.05},
        **{"cpu_prepared": 0.01, "cpu_pairs": pairs, "parameters": 1000, "best": score if end == 1.0 else None},
    }

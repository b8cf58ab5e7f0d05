"""The charts of a promotion, from the content of promotion.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ups.pages.charts import AMBER, BLUE, GREY, RED, Axis, Interval, Layer, Line, Points, chart, short


def confirmation(promotion: Mapping[str, Any]) -> list[str]:
    """The improvement with its interval, and the scores on the fresh seeds."""
    contenders = [each for each in promotion["contenders"] if each["runs"]]
    if not contenders:
        return []
    names = tuple(each["name"] for each in contenders)
    axis = Axis("config", categories=names)
    complete = [
        (index, run)
        for index, each in enumerate(contenders)
        for run in each["runs"]
        if run["status"] == "COMPLETE" and run["score"] is not None
    ]
    broken = [
        (index, run) for index, each in enumerate(contenders) for run in each["runs"] if (index, run) not in complete
    ]
    layers: list[Layer] = [
        Points(
            [index for index, _ in complete],
            [run["score"] for _, run in complete],
            "validation, one mark a seed",
            BLUE,
            titles=[f"{names[index]}, seed {run['seed']}: {run['score']:.5g}" for index, run in complete],
        )
    ]
    if broken:
        titles = [f"{names[index]}, seed {run['seed']}: {run['status']}, {run['reason']}" for index, run in broken]
        places = [index for index, _ in broken]
        layers.append(Points(places, [None] * len(broken), "did not come through", RED, "cross", titles))
    tested = [
        (names.index(name) + 0.18, float(score), f"{name}, seed {seed}: {score:.5g}")
        for name, scores in promotion["test"].items()
        for seed, score in scores.items()
        if score is not None
    ]
    if tested:
        x, y, notes = zip(*tested, strict=True)
        layers.append(Points(x, y, "test, one mark a seed", AMBER, "ring", notes))
    said = f"Rollout error of {', '.join(names)} on {len(promotion['seeds'])} fresh seeds."
    comparison = promotion["comparison"]
    charts = [_improvement(comparison, promotion)] if comparison else []
    return [*charts, chart("Retraining on fresh seeds", said, axis, Axis("rollout_nrmse"), layers)]


def _improvement(comparison: Mapping[str, Any], promotion: Mapping[str, Any]) -> str:
    per_seed = comparison["per_seed"]
    label = f"{promotion['winner']} against {promotion['reference']}"
    layers: list[Layer] = [
        Line([-0.5, 1.5], [0.0, 0.0], "no difference", GREY, dashed=True),
        Interval([0.0], [comparison["low"]], [comparison["high"]], "95 % interval", BLUE),
        Points([0.0], [comparison["improvement"]], "mean", BLUE),
        Points([1.0] * len(per_seed), per_seed, "one seed", AMBER, "ring"),
    ]
    said = (
        f"Improvement of {label} on test: {short(comparison['improvement'])}, between {short(comparison['low'])} and "
        f"{short(comparison['high'])}; above zero is better."
    )
    axis = Axis(label, categories=("mean", "each seed"))
    return chart("Improvement on test", said, axis, Axis("decrease of rollout_nrmse", log=False), layers)

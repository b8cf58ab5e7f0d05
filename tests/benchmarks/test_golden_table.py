"""The section on the golden config, from the records of promotions."""

from __future__ import annotations

from typing import Any

import golden_table as script
import pytest

from ups.core.errors import UserError


def promotion(reference: str, winner: str = "trial 7", read: bool = True) -> dict[str, Any]:
    runs = [{"seconds": 10.0, "metrics": {"inference_ms": 3.0}}, {"seconds": 20.0, "metrics": {"inference_ms": 5.0}}]
    comparison = {"improvement": 0.02, "low": 0.01, "high": 0.03, "per_seed": [0.02, 0.02], "trajectories": 64}
    return {
        **{"winner": winner, "reference": reference, "seeds": [5, 6], "verdict": f"confirmed: beats the {reference}"},
        "test": {winner: {"5": 0.01, "6": 0.03}, reference: {"5": 0.04, "6": 0.06}},
        "comparison": comparison if read else None,
        "contenders": [{"name": winner, "runs": runs}, {"name": reference, "runs": runs}],
    }


@pytest.fixture
def peers() -> dict[str, Any]:
    models = ("ups", "fno_frame", "fno", "fno_plain")
    runs = [{"errors": {"reencode": [0.1, 0.3]}}, {"errors": {"reencode": [0.1, 0.3]}}]
    return {"protocol": {"seconds": 200.0}, "models": {model: {"runs": runs} for model in models}}


def test_every_comparison_and_every_peer_is_told(peers: dict[str, Any]) -> None:
    text = script.render(script.collect([promotion("golden"), promotion("base")], peers))
    assert "| **golden** (trial 7 of the search) | 15 | 4 | 0.02 ±" in text
    assert text.count("| 15 | 4 | 0.05 ±") == 2
    assert text.count("| 200 |  | 0.2 ± 0 |") == 4
    assert "Against `burgers1d_golden_v2` on this task: confirmed: beats the golden; improvement 0.02" in text


@pytest.mark.parametrize("other", [promotion("base", winner="trial 8"), promotion("base", read=False)])
def test_promotions_must_be_of_one_winner_that_was_tested(peers: dict[str, Any], other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="same winner"):
        script.collect([promotion("golden"), other], peers)

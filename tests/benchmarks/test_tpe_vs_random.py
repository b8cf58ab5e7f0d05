"""The comparison of two samplers on synthetic searches."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tpe_vs_random as script


def trial(number: int, score: float | None, state: str = "COMPLETE") -> dict[str, Any]:
    return {"number": number, "state": state, "score": score, "seconds": 2.0, "origin": "sampled", "reason": ""}


def test_best_so_far_counts_complete_trials_in_their_order() -> None:
    trials = [trial(0, 0.5), trial(1, 0.1, "PRUNED"), trial(2, 0.4), trial(3, None, "EXPLODED")]
    assert [script.best_so_far(trials[::-1], share) for share in (0.25, 0.5, 0.75, 1.0)] == [0.5, 0.5, 0.4, 0.4]
    assert script.best_so_far(trials[1:2], 1.0) is None


def test_the_interval_is_students() -> None:
    # t(0.975, 4) = 2.776, standard deviation 1, mean 2, n = 5
    low, high = script.paired_interval([2 - 1.0, 2.0, 2.0, 2.0 + 1.0, 2.0])
    half = 2.7764451 * (0.5**0.5) / 5**0.5
    assert (low, high) == (pytest.approx(2 - half), pytest.approx(2 + half))


def search(best: float) -> dict[str, Any]:
    trials = [trial(0, 0.5), trial(1, None, "EXPLODED"), trial(2, 0.3, "PRUNED"), trial(3, best)]
    return {
        **{"trials": trials, "wanted": 4, "seconds": 10.0, "stop_reason": None, "explosion_rates": [0.5, 0.0]},
        **{"commit": "abc1234", "date": "2025-01-01"},
    }


def collected(tpe: list[float], random: list[float]) -> dict[str, Any]:
    searches = {
        name: {seed: search(best) for seed, best in enumerate(found)}
        for name, found in {"tpe": tpe, "random": random}.items()
    }
    protocol = {"space": "demo", "trials": 4, "scheduler": "none", "startup_trials": 2, "seeds": [0, 1, 2]}
    machine = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}
    return json.loads(json.dumps(script.collect(protocol, searches, machine)))


def test_seeds_are_paired() -> None:
    found = collected([0.1, 0.2, 0.3], [0.21, 0.3, 0.39])
    assert found["difference"]["gains"] == pytest.approx([0.11, 0.1, 0.09])
    assert found["difference"]["low"] > 0
    text = script.render(found)
    assert "| **TPE** | 0.5 ± 0 | 0.5 ± 0 | 0.5 ± 0 | 0.2 ± 0.1 | 50% | 0% | 2 / 1 / 1 | 8 s | 10 s |" in text
    assert "excluding zero" in text
    assert "TPE is ahead on 3 of 3 seeds." in text
    assert "Note" not in text


def test_a_tie_is_no_lead_and_a_short_search_is_noted() -> None:
    found = collected([0.2, 0.2, 0.2], [0.2, 0.3, 0.1])
    found["samplers"]["random"][1] |= {"wanted": 5, "stop_reason": "the time budget is spent"}
    text = script.render(found)
    assert "including zero" in text
    assert "TPE is ahead on 1 of 3 seeds." in text
    assert "Note: random, seed 1 ended after 4 trials: the time budget is spent." in text

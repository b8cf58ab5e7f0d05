"""What a stopped trial gives back: the clock runs until Ray has everything again, and the slowest search decides."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import give_back as script
import pytest
import ray

MACHINE = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}


def snapshot(*, stop: bool) -> Any:
    return SimpleNamespace(running=[SimpleNamespace(verdict=SimpleNamespace(stop=stop))])


@pytest.mark.usefixtures("ray_session")
def test_the_clock_runs_from_the_verdict_until_everything_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    left, looks = [0.0, 1.0, 2.0], []
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": left[len(looks)]})
    monkeypatch.setattr(script.time, "sleep", looks.append)
    watch = script.Stopwatch()
    watch.progress(snapshot(stop=False))
    watch.join()
    assert (watch.seconds, looks) == (None, [])
    for _ in range(2):  # what comes after the verdict starts no second clock
        watch.progress(snapshot(stop=True))
    watch.join()
    assert watch.seconds is not None
    assert looks == [script.LOOK_SECONDS] * 2


@pytest.mark.parametrize(("slowest", "verdict"), [(4.9, "is reached"), (5.1, "is **missed**")])
def test_the_slowest_search_decides(slowest: float, verdict: str) -> None:
    data = {"machine": MACHINE, "seconds": [0.4, slowest, 0.5], "commit": "abc1234", "date": "2026-01-01"}
    text = script.render(json.loads(json.dumps(data)))
    assert f"| 0.50 | 0.40 | {slowest:.2f} |" in text
    assert verdict in text

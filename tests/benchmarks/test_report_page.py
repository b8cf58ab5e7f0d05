"""The page of a long search: a real search, its page, a real browser; and what is said of the seconds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import report_page as script

MACHINE = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}


def test_a_page_is_written_and_seen(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    seconds, states = script.write(script.OUT, 12, page)
    assert seconds > 0
    assert sum(states.values()) == 12
    assert "12 of 12" in page.read_text()
    begin = time.perf_counter()
    found = script.see(page, 1280, 2)
    assert len(found) == 2
    # painted after it was loaded, and both of this load alone
    assert all(0 < loaded <= seen for loaded, seen in found)
    assert sum(seen for _, seen in found) < time.perf_counter() - begin


@pytest.mark.parametrize(("slowest", "verdict"), [(1.9, "is reached"), (2.1, "is **missed**")])
def test_the_slowest_load_decides(slowest: float, verdict: str) -> None:
    data: dict[str, Any] = {
        **{"machine": MACHINE, "trials": 1000, "states": {"PRUNED": 900, "COMPLETE": 100}, "write_seconds": 20.0},
        **{"bytes": 700_000, "loads": {"1280": [[0.2, 0.4], [0.3, 0.5]], "400": [[0.2, 0.4], [0.3, slowest]]}},
        **{"commit": "abc1234", "date": "2026-01-01"},
    }
    text = script.render(json.loads(json.dumps(data)))
    assert verdict in text
    assert "(100 COMPLETE, 900 PRUNED)" in text
    assert f"| 400 pixels | 0.25 | {(0.4 + slowest) / 2:.2f} | {slowest:.2f} |" in text

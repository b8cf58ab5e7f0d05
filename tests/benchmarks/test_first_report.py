"""The new user's path: the steps are those of `make demo`, and a failure is no measurement."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import first_report as script
import pytest

MACHINE = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}


def data(seconds: float) -> dict[str, Any]:
    steps = [{"words": words, "seconds": seconds} for words in script.steps()]
    found = {"machine": MACHINE, "steps": steps, "report_bytes": 1_500_000, "commit": "abc1234", "date": "2026-01-01"}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def test_the_steps_are_those_of_the_demo() -> None:
    generate, *rest = script.steps()
    assert generate[:2] == ["data", "generate"]
    assert generate[-2:] == ["--out", "data/demo.h5"]
    assert [words[0] for words in rest] == ["search", "trials", "promote", "report"]
    assert {words[1] for words in rest[1:]} == {"runs/demo"}
    assert rest[0] == ["search", "demo", "--out", "runs/demo"]


@pytest.mark.parametrize(("seconds", "verdict"), [(40.0, "reached: 3.3 minutes"), (130.0, "missed: 10.8 minutes")])
def test_the_section_has_every_step_and_the_verdict(seconds: float, verdict: str) -> None:
    text = script.render(data(seconds))
    assert text.count("| `ups ") == 5
    assert f"| **together** | **{5 * seconds:.0f}** |" in text
    assert verdict in text
    assert "1.5 MB" in text


def test_a_step_is_timed_and_one_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # instead of `ups`, whose start takes seconds
    stands_in = "import sys; print(sys.argv[1:]); sys.exit(2 * ('nowhere' in sys.argv))"
    monkeypatch.setattr(script, "COMMAND", [sys.executable, "-c", stands_in])
    assert script.run(["report", "runs/demo"], tmp_path) > 0
    assert "['report', 'runs/demo']" in (tmp_path / "log.txt").read_text()
    with pytest.raises(RuntimeError, match=r"ups trials ended with 2, see .*log.txt"):
        script.run(["trials", "nowhere"], tmp_path)
    monkeypatch.setattr(script, "run", lambda words, folder: 1.0)
    with pytest.raises(RuntimeError, match="there is no report"):
        script.measure(argparse.Namespace(quick=True), tmp_path / "work")

"""Why a trial is stopped, left for its worker: Tune stops it in the middle of a report and does not say."""

from __future__ import annotations

from pathlib import Path

from tune.trial import Outcome
from ups.core.runtime import write_atomic


def leave_verdict(study: Path, number: int, outcome: Outcome) -> None:
    write_atomic(_place(study, number), outcome.to_json().encode())


def take_verdict(study: Path, number: int) -> Outcome | None:
    """What was left for the trial, which is gone with that; None where nothing was."""
    place = _place(study, number)
    try:
        text = place.read_text()
    except FileNotFoundError:
        return None
    place.unlink(missing_ok=True)
    return Outcome.from_json(text)


def _place(study: Path, number: int) -> Path:
    return study / "runs" / f".{number:04d}.verdict"

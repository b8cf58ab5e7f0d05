"""Why a trial is stopped, left where its page at wandb finds it: Tune stops a trial in the middle of a report, or kills
its process, and does not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tune.trial import Outcome
from ups.core.runtime import write_atomic


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """What the page of a trial says of how it ended."""
    return {
        "status": str(outcome.state),
        "reason": outcome.reason,
        "score": outcome.score,
        "seconds": outcome.seconds,
        "parameters": outcome.parameters,
        "reused_stages": list(outcome.reused_stages),
        **outcome.metrics,
    }


def verdict_place(study: Path, number: int) -> Path:
    return study / "runs" / f".{number:04d}.verdict"


def leave_verdict(study: Path, number: int, outcome: Outcome) -> None:
    write_atomic(verdict_place(study, number), json.dumps(facts_of(outcome)).encode())


def read_verdict(study: Path, number: int) -> dict[str, Any] | None:
    """The facts that were left for the trial; None where nothing was."""
    try:
        return json.loads(verdict_place(study, number).read_text())
    except FileNotFoundError:
        return None


def drop_verdict(study: Path, number: int) -> None:
    """It has been said, or is of an earlier start of the trial."""
    verdict_place(study, number).unlink(missing_ok=True)

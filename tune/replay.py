"""Whether a study's decisions come out again: every proposal and every verdict, from its journal, without training.

In deterministic mode (`strategy.batch`) they are a function of the results of the batches before. The results are
taken from the journal and handed to a new search in a temporary folder; what it decides is compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from tune.domain import from_journal
from tune.driver import Driver
from tune.fit import fit_to_data
from tune.running import NoView
from tune.sampler import outcome_of
from tune.storage import read_trials
from tune.study import OpenStudy, load_plan
from tune.trial import Outcome, Trial
from ups.core.errors import UserError
from ups.core.types import Status


@dataclass(frozen=True)
class Replay:
    """What came out the same, and the first thing that did not."""

    proposals: int = 0
    verdicts: int = 0
    difference: str | None = None


def replay(folder: Path) -> Replay:
    """Decide once more on everything that the study decided.

    Raises:
        UserError: no study there, one that is not deterministic, or its data cannot be read.
    """
    plan = load_plan(folder)
    if plan.config.strategy.batch is None:
        raise UserError(f"{folder}: only a deterministic search can be replayed; set strategy.batch in its space")
    check, keys = fit_to_data(plan)
    resources = plan.config.resources
    trials, _ = read_trials(folder, resources.study_storage, resources.study_name)
    recorded = {trial.number: trial for trial in trials}
    found = Replay()
    with (
        tempfile.TemporaryDirectory(prefix="ups-replay-") as place,
        OpenStudy(Path(place) / "study", plan.kept_at(None, None), resume=False) as study,
    ):
        driver = Driver(study, check=check, keys=keys, concurrency=1, time_budget=None, view=NoView())
        for difference, is_verdict in _decisions(driver, recorded):
            if difference is not None:
                return Replay(found.proposals, found.verdicts, difference)
            found = Replay(found.proposals + (not is_verdict), found.verdicts + is_verdict)
    return found


def _decisions(driver: Driver, recorded: Mapping[int, FrozenTrial]) -> Iterator[tuple[str | None, bool]]:
    """(difference, whether it is a verdict) of every decision, up to the first trial without an end."""
    while (trial := driver.next()) is not None:
        then = recorded.get(trial.number)
        if then is None or not then.state.is_finished():
            return
        yield _other_proposal(trial, then), False
        outcome = outcome_of(then)
        stopped = _walk(driver, trial.number, outcome)
        decided = driver.pruned(trial.number) if stopped else outcome
        difference = None
        if (decided.state, decided.reason) != (outcome.state, outcome.reason):
            difference = (
                f"trial {trial.number}: {decided.state} ({decided.reason}), then {outcome.state} ({outcome.reason})"
            )
        yield difference, True
        driver.end(trial.number, outcome)


def _other_proposal(trial: Trial, then: FrozenTrial) -> str | None:
    before = {name: from_journal(value) for name, value in then.params.items()}
    ours = {name: value for name, value in trial.params.items() if name in before or name not in _given(then)}
    changed = [name for name in sorted({*before, *ours}) if before.get(name) != ours.get(name)]
    if not changed:
        return None
    name = changed[0]
    return f"trial {trial.number}: proposed {name} {ours.get(name)!r}, then {before.get(name)!r}"


def _given(then: FrozenTrial) -> Mapping[str, Any]:
    return then.user_attrs.get("given", {})


def _walk(driver: Driver, number: int, outcome: Outcome) -> bool:
    """Report what the trial reported; True where it is stopped, which may only be at its end."""
    if outcome.state is Status.INFEASIBLE or outcome.reason.startswith("shares "):
        return False
    for key, score in outcome.milestones.items():
        stage, share = key.split(":")
        if stage in outcome.reused_stages:
            continue
        seconds = outcome.stage_seconds.get(stage, 0.0)
        report = {"stage": stage, "share": float(share), "seconds": seconds, "score": score}
        if driver.progress(number, report):
            return True
    return False

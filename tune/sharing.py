"""What the trials of a study shared: each distinct prefix of stages, who trained it, and who found it finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tune.objectives import NOISE
from tune.study import StudyFolder, TrialRecord
from tune.trial import stages_of
from ups.core.types import Status
from ups.training.keys import stage_keys


@dataclass(frozen=True)
class Prefix:
    """One stage of one config, and all trials that came to it on the same way."""

    stage: str
    trials: tuple[TrialRecord, ...]
    """by number; the first one opened it"""
    below: tuple[Prefix, ...]
    """what these trials went on with, the most used first; those that ended here are in none of them"""
    seconds: float
    """that its training took, over all trials that worked on it; 0 if it came out of a store that was filled before"""
    reused: int
    """trials that found it finished"""

    @property
    def best(self) -> float | None:
        """Smallest score of a complete trial through it."""
        scores = [trial.score for trial in self.trials if trial.state is Status.COMPLETE and trial.origin != NOISE]
        return min((score for score in scores if score is not None), default=None)

    @property
    def saved(self) -> float:
        """Seconds that those that found it finished would have trained it for."""
        return self.reused * self.seconds


def chains(study: StudyFolder) -> dict[int, dict[str, str]]:
    """Number of a trial -> stage -> what the stage is called, for the trained stages that the trial came to.

    Two trials have the same name in a stage if and only if they share it, whatever else differs below.
    """
    found = {}
    for trial in study.trials:
        came_to = {*trial.reused_stages, *trial.stage_seconds, *(key.rsplit(":", 1)[0] for key in trial.milestones)}
        if came_to:
            config = study.config_of(trial)
            # the data is the same for all trials of a study, so their names need not hold it
            keys, order = stage_keys(config, ""), stages_of(config)
            found[trial.number] = {stage: keys[stage] for stage in order if stage in keys and stage in came_to}
    return found


def prefixes(study: StudyFolder, names: Mapping[int, Mapping[str, str]]) -> tuple[Prefix, ...]:
    """The first stages of all trials with what lies below them, the most used first; `names` is what `chains` gives."""
    trials = tuple(trial for trial in study.trials if names.get(trial.number))
    return _below(trials, {trial.number: tuple(names[trial.number].items()) for trial in trials}, 0)


def _below(
    trials: tuple[TrialRecord, ...], ways: Mapping[int, tuple[tuple[str, str], ...]], depth: int
) -> tuple[Prefix, ...]:
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        if len(ways[trial.number]) > depth:
            groups.setdefault(ways[trial.number][depth], []).append(trial)
    found = [
        Prefix(
            stage,
            tuple(group),
            _below(tuple(group), ways, depth + 1),
            sum(trial.stage_seconds.get(stage, 0.0) for trial in group if stage not in trial.reused_stages),
            sum(stage in trial.reused_stages for trial in group),
        )
        for (stage, _), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda prefix: (-len(prefix.trials), prefix.trials[0].number)))


def all_of(prefixes: tuple[Prefix, ...]) -> list[Prefix]:
    """These and everything below them."""
    return [each for prefix in prefixes for each in (prefix, *all_of(prefix.below))]

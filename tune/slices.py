"""Score against the value of each parameter."""

from __future__ import annotations

from collections.abc import Sequence

from tune.domain import Domain
from tune.figures import SCORE, marks
from tune.objectives import best_of
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from ups.pages.charts import Axis, chart, short


def slices(study: StudyFolder, order: Sequence[str]) -> list[str]:
    """For each name of the space that some trial has; those of `order` first, in that order."""
    names = [*order, *(name for name in study.config.space if name not in order)]
    having = {name: [trial for trial in study.trials if name in trial.params] for name in names}
    return [_slice(name, study.config.space[name], trials, study.config) for name, trials in having.items() if trials]


def _slice(name: str, domain: Domain, trials: list[TrialRecord], config: SearchConfig) -> str:
    if domain.choice is None:
        axis = Axis(name, log=domain.log, whole=domain.integers is not None)
        layers = marks(trials, lambda trial: float(trial.params[name]), titled=False)
    else:
        options = [str(option) for option in domain.choice]
        outside = [str(trial.params[name]) for trial in trials if str(trial.params[name]) not in options]
        places = tuple(dict.fromkeys([*options, *outside]))
        axis = Axis(name, categories=places)
        # side by side rather than on top of each other
        layers = marks(
            trials, lambda trial: places.index(str(trial.params[name])) + 0.04 * (trial.number % 7 - 3), titled=False
        )
    best = best_of(trials, config)
    said = f"{len(trials)} trials with a value of {name}."
    if best is not None:
        value = best.params[name]
        said += f" The best of them has {short(value) if isinstance(value, float) else value}."
    return chart(name, said, axis, SCORE, layers)

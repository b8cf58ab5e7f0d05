"""What Ray Tune keeps of trials that have ended: as little as it can do with, because it keeps it until the search
ends, and nobody reads it. A study has its own record of them."""

from __future__ import annotations

import tune.ray_env  # isort: skip  # noqa: F401  (before Ray)

from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial


class EndedTrials(Callback):
    """Empties them: statistics of every metric (two thirds of what Tune remembers), results, configs; and what each has
    a copy of, where it writes and what it asks of the cluster, is from then on the first one's."""

    def __init__(self) -> None:
        self._ended: list[RayTrial] = []
        self._first: RayTrial | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (object, ())  # Tune pickles it for a restore of its own, which is never used

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._ended.append(trial)

    on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """By now whoever had to be told of the end of a trial was told, with its last result."""
        finished = [trial for trial in self._ended if trial.is_finished()]
        self._ended = [trial for trial in self._ended if not trial.is_finished()]
        for trial in finished:
            first = self._first = self._first or trial
            kept = trial.run_metadata
            kept.last_result, kept.metric_analysis, kept.metric_n_steps = {}, {}, {}
            kept.checkpoint_manager = first.run_metadata.checkpoint_manager
            # a result that stands in for the last one, with the config in it
            trial._default_result_or_future = None
            trial.config.clear()
            trial.evaluated_params = {}
            trial.storage = first.storage
            # the key under which Tune looks for it
            if trial.placement_group_factory == first.placement_group_factory:
                trial.placement_group_factory = first.placement_group_factory
                trial._default_placement_group_factory = first._default_placement_group_factory

"""What Ray Tune keeps of trials that have ended: a search is the same without, and its memory grows less."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
from made_up_search import MadeUpSearch
from ray.tune.experiment import Trial as RayTrial

from tune.running import NoView
from tune.search import run_search
from ups.config import RunConfig
from ups.core.types import Status

TRIALS = 12


class Looks(NoView):
    """Looks at what Tune has of the trials of a study when the last one ends."""

    def __init__(self, study: Path) -> None:
        self._study = str(study)
        self.kept: list[RayTrial] = []

    def ended(self, record, snapshot) -> None:
        if snapshot.ended == TRIALS:
            # not `isinstance`, which asks the object, and another test may have left one that does not answer
            alive = [each for each in gc.get_objects() if type(each) is RayTrial]
            mine = [each for each in alive if str(each.storage.experiment_fs_path).startswith(self._study)]
            self.kept = [trial for trial in mine if trial.is_finished()]


@pytest.mark.usefixtures("ray_session")
def test_tune_keeps_no_results_of_trials_that_have_ended(make_plan, trainer, tmp_path, capfd) -> None:
    looks = Looks(tmp_path / "s")

    def score(config: RunConfig, k: int) -> float:
        if config.latent.tokens == 16:
            raise ValueError("sixteen")
        return config.stages.operator.optimizer.lr / k

    # some are stopped in a report, some end with their last one, and some of those have failed
    curve = trainer(score)
    plan = make_plan(trials=TRIALS, sampler="random", milestones={"operator": [0.25, 0.5, 1]})
    summary = run_search(plan, tmp_path / "s", view=looks, trainer=curve)
    assert len(summary.records) == TRIALS
    assert {record.state for record in summary.records} >= {Status.COMPLETE, Status.PRUNED, Status.FAILED}
    assert len(looks.kept) == TRIALS - 1  # the last one ends in this moment
    for trial in looks.kept:
        kept = trial.run_metadata
        assert kept.last_result.keys() <= {"trial_id"}  # Tune puts that there whenever it is asked for a result
        assert (kept.metric_analysis, kept.metric_n_steps) == ({}, {})
        assert (trial.config, trial.evaluated_params, trial._default_result_or_future) == ({}, {}, None)
    assert len({id(trial.placement_group_factory) for trial in looks.kept}) == 1
    assert capfd.readouterr() == ("", "")


def test_equal_distributions_and_names_of_attributes_are_kept_once(make_plan, tmp_path) -> None:
    plan = make_plan(trials=20, sampler="random", scheduler="none")
    with MadeUpSearch(plan, tmp_path / "s", lambda values, stage: 0.5) as search:
        search.run()
        trials = search.study.optuna.get_trials(deepcopy=False)
    kinds = {id(kind) for trial in trials for kind in trial.distributions.values()}
    assert len(kinds) == len({name for trial in trials for name in trial.distributions})
    names = [name for trial in trials for name in trial.user_attrs]
    assert len({id(name) for name in names}) == len(set(names)) < len(names)
    assert all(sys.intern(name) is name for name in set(names))

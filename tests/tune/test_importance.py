"""Laws of importance: what decides the score stands out, chance does not, however trials share their stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tune import importance
from tune.importance import FEWEST, Ranking, rank
from tune.importance_figure import importances, not_judged
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from ups.config import RunConfig
from ups.core.types import Status

LR, MIXER, DEPTH, DROP = "stages.operator.optimizer.lr", "operator.mixer", "operator.depth", "operator.drop_path"
SEARCH = SearchConfig.parse(
    {
        "base": "base.yaml",
        "space": {
            LR: {"float": [1e-4, 1.0], "log": True},
            DROP: {"float": [0.0, 0.2]},
            MIXER: {"choice": ["conv", "spectral"]},
            DEPTH: {"int": [1, 8], "when": {MIXER: "conv"}},
        },
    }
)
TASK = {"equation": "burgers", "files": ["data/a.h5"], "train": 8, "validation": 2, "test": 4}


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "TREES", 8)
    monkeypatch.setattr(importance, "REPEATS", 5)


def study(count: int, effect: float, *, blocks: int | None = None, deep: float = 0.0) -> StudyFolder:
    """Score falls with log lr by `effect`, with depth by `deep`; `blocks`: so many operators, each with a luck that is
    its own, and many trials below each."""
    random, trials = np.random.default_rng(3), []
    luck = random.normal(size=blocks or 1)
    operators = [(10 ** random.uniform(-4, 0), random.uniform(0, 0.2)) for _ in range(blocks or count)]
    for number in range(count):
        operator = number % len(operators)
        lr, drop = operators[operator]
        params = {LR: lr, DROP: drop, MIXER: "conv" if blocks or number % 2 else "spectral"}
        if params[MIXER] == "conv":
            params[DEPTH] = int(random.integers(1, 9))
        score = np.exp(effect * np.log10(lr) + 0.1 * random.normal() + deep * params.get(DEPTH, 0))
        score *= np.exp(luck[operator]) if blocks else 1
        trials.append(TrialRecord(number, Status.COMPLETE, float(score), "", params, 1.0, (), {}, 7))
    return StudyFolder(Path("made"), SEARCH, RunConfig.parse({"task": TASK}), tuple(trials))


def real(ranking: Ranking) -> set[str]:
    return {each.name for panel in ranking.panels for each in panel.found if not each.is_noise}


def test_what_decides_stands_out_and_chance_does_not() -> None:
    ranking = rank(study(80, 1.0), {})
    assert ranking.order()[0] == LR
    assert real(ranking) == {LR}
    found = ranking.panels[0].found[0]
    assert 0.5 < found.low <= found.mean <= found.high <= 1
    assert real(rank(study(80, 0.0), {})) == set()


def test_the_same_study_ranks_the_same() -> None:
    assert rank(study(40, 0.5), {}) == rank(study(40, 0.5), {})


def test_conditional_parameters_are_judged_where_they_are() -> None:
    ranking = rank(study(80, 0.0, deep=0.5), {})
    assert [panel.condition for panel in ranking.panels] == ["", f"{MIXER} is conv"]
    assert [panel.trials for panel in ranking.panels] == [80, 40]
    assert [each.name for each in ranking.panels[1].found] == [DEPTH]
    assert DEPTH in real(ranking)
    few = rank(study(FEWEST + 4, 1.0), {})
    assert few.left_out == (DEPTH,)
    assert DEPTH in not_judged(few)


def test_a_lucky_operator_that_many_trials_share_says_nothing_of_its_parameters() -> None:
    made = study(80, 0.0, blocks=4)
    shared = {trial.number: {"operator": str(trial.number % 4)} for trial in made.trials}
    # taken one by one, eighty trials seem to say much
    assert real(rank(made, {})) & {LR, DROP}
    assert not real(rank(made, shared)) & {LR, DROP}


def test_too_few_trials_are_told() -> None:
    ranking = rank(study(FEWEST - 1, 1.0), {})
    assert ranking.panels == ()
    assert importances(ranking) == []
    assert f"needs {FEWEST} trials" in not_judged(ranking)
    assert f"there are {FEWEST - 1}" in not_judged(ranking)


def test_equal_scores_and_zero_are_no_obstacle() -> None:
    made = study(FEWEST, 0.0)
    equal = tuple(TrialRecord(**{**vars(trial), "score": 0.0}) for trial in made.trials)
    ranking = rank(StudyFolder(made.path, SEARCH, made.base, equal), {})
    assert real(ranking) == set()
    assert len(importances(ranking)) == 1

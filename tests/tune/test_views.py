"""What TPE is shown, and that it proposes what it would on a study of the same trials."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from tune import views
from tune.domain import Domain
from tune.views import Shelf, distribution_of

DOMAINS = {
    "x": Domain.parse({"float": [1e-3, 10.0], "log": True}),
    "n": Domain.parse({"int": [1, 20]}),
    "c": Domain.parse({"choice": [[1, 2], [3], "a"]}),
}
VALUES = st.fixed_dictionaries(
    {"x": st.floats(1e-3, 10.0)},
    # names under a condition
    optional={"n": st.integers(1, 20), "c": st.sampled_from([[1, 2], [3], "a"])},
)
WORD = st.tuples(st.sampled_from(["complete", "stopped", "diverged", "running", "drop"]), st.floats(0.01, 1.0), VALUES)


def say(shelf, id, word):
    kind, score, params = word
    match kind:
        case "complete":
            shelf.complete(id, id, params, score)
        case "stopped":
            shelf.stopped(id, id, params, 3, score)
        case "diverged":
            shelf.diverged(id, id, params)
        case "running":
            shelf.running(id, id, params)
        case "drop":
            shelf.drop(id)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.tuples(st.integers(0, 6), WORD), max_size=40))
def test_a_thing_is_shown_once_with_the_last_word_on_it(words):
    shelf, known = Shelf(DOMAINS), {}
    for id, word in words:
        say(shelf, id, word)
        kind, score, _ = word
        if kind == "drop":
            known.pop(id, None)
        elif kind != "running" or id not in known:
            known[id] = (kind, score)
    seen = shelf.seen()
    assert [trial.number for trial in seen] == sorted(known)
    states = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "running": TrialState.RUNNING}
    for trial in seen:
        kind, score = known[trial.number]
        assert trial.state is states.get(kind, TrialState.COMPLETE)
        assert bool(trial.constraints) == (kind == "diverged")
        if kind == "complete":
            assert trial.value == score
        if kind == "stopped":
            assert trial.intermediate_values == {3: score}


def test_the_best_the_latest_and_what_diverged_are_shown(monkeypatch):
    for name, count in (("BEST", 3), ("LATEST", 4), ("DIVERGED", 2), ("RUNNING", 2)):
        monkeypatch.setattr(views, name, count)
    shelf, params = Shelf(DOMAINS), {"x": 1.0, "n": 3, "c": "a"}
    for number in range(40):
        if number % 10 == 5:
            shelf.diverged(number, number, params)
        else:
            shelf.complete(number, number, params, 0.1 + number)
    for number in range(40, 44):
        shelf.running(number, number, params)
    # 0 to 2 are the best, 36 to 39 the latest, 25 and 35 diverged, 42 and 43 run
    assert [trial.number for trial in shelf.seen()] == [0, 1, 2, 25, 35, 36, 37, 38, 39, 42, 43]


def test_the_latest_that_ended_are_shown_however_many_run(monkeypatch):
    for name, count in (("BEST", 1), ("LATEST", 3), ("RUNNING", 2)):
        monkeypatch.setattr(views, name, count)
    shelf, params = Shelf(DOMAINS), {"x": 1.0}
    for number in range(300):
        shelf.running(number, number, params)
    for number in (7, 250, 3, 90):
        shelf.stopped(number, number, params, 1, 0.5)
    assert [trial.number for trial in shelf.seen()] == [3, 90, 250, 298, 299]


@settings(max_examples=12, deadline=None)
@given(words=st.lists(WORD.filter(lambda word: word[0] != "drop"), min_size=1, max_size=25), seed=st.integers(0, 99))
def test_it_proposes_what_tpe_does_in_a_study_of_the_same_trials(words, seed):
    shelf, study = Shelf(DOMAINS), optuna.create_study()
    distributions = {name: distribution_of(domain) for name, domain in DOMAINS.items()}
    for number, word in enumerate(words):
        say(shelf, number, word)
    for trial in shelf.seen():
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                system_attrs=trial.system_attrs,
            )
        )
    study.sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=4, multivariate=True, group=True, constant_liar=True
    )
    asked = study.ask()
    expected = {name: asked._suggest(name, distributions[name]) for name in DOMAINS}
    before = shelf.suggest(seed + 1, startup=4)
    assert before("x", DOMAINS["x"]) is not None  # what was proposed before leaves no trace
    suggest = shelf.suggest(seed, startup=4)
    found = {name: suggest(name, domain) for name, domain in DOMAINS.items()}
    assert found == {**expected, "c": views.from_journal(expected["c"])}
    assert all(domain.contains(found[name]) for name, domain in DOMAINS.items())


@pytest.mark.parametrize("name", DOMAINS)
def test_a_distribution_holds_the_ends_of_its_domain(name):
    distribution = distribution_of(DOMAINS[name])
    for end in DOMAINS[name].ends:
        assert distribution._contains(distribution.to_internal_repr(views.to_journal(end)))

"""Laws of the stage tree, on made-up outcomes: what it proposes, below what, and what it learns from."""

from __future__ import annotations

import math
import os
from collections import Counter

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_search import (
    CANDIDATES,
    COMBINATIONS,
    COSTS,
    EPOCHS,
    FINITE,
    LR,
    RATE,
    STAGED,
    THREE,
    MadeUpSearch,
    keys_of,
)
from optuna.trial import TrialState

from tune.checks import random_value
from tune.driver import EXHAUSTED
from tune.levels import STAGES, levels_of
from tune.sampler import Proposer
from tune.space import SearchConfig, Space
from tune.stage_tree import StageTree
from tune.study import OpenStudy
from tune.trial import DIVERGED, SHARED, Outcome
from tune.views import distribution_of
from ups.core.types import Status

STOPPED = (*(state for state in DIVERGED if state is not Status.INFEASIBLE), Status.PRUNED, Status.STALLED)
LEVELS = {LR: 0, EPOCHS: 1, RATE: 1, "ttc.enabled": 4, CANDIDATES: 4}
"""of the names of THREE, as `test_levels` holds"""


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def space_of(base, domains):
    return Space(SearchConfig.parse({"base": "base.yaml", "space": domains}).space, base)


@pytest.fixture(scope="module")
def three(base):
    return space_of(base, THREE)


def tree_of(space, **how):
    levels = LEVELS if set(space.domains) == set(LEVELS) else levels_of(space)
    return StageTree(space, levels, **{"startup": 4, "nominal_costs": False, **how})


def smooth(values):
    """Every stage has an optimum of its own, and each multiplies the error."""
    score = 0.2 * math.exp(0.2 * abs(math.log(values[LR] / 3e-3)))
    scores = {"operator:1": score}
    if values.get(EPOCHS):
        score *= 0.6 * math.exp(0.1 * abs(math.log(values[RATE] / 1e-3)))
        scores["diff_residual:1"] = score
    if values.get("ttc.enabled"):
        score *= 1 - 0.01 * values[CANDIDATES]
        scores["inference:1"] = score
    return scores


def complete(values):
    scores = smooth(values)
    costs = {key.split(":")[0]: COSTS[key.split(":")[0]] for key in scores}
    return Outcome(Status.COMPLETE, min(scores.values()), milestones=scores, stage_seconds=costs)


def ended_at(state, stage, values):
    """Stopped halfway through a stage."""
    order = STAGES.index(stage)
    above = {key: score for key, score in smooth(values).items() if STAGES.index(key.split(":")[0]) < order}
    known = {} if state in DIVERGED else {f"{stage}:0.5": 1.5 * smooth(values)[f"{stage}:1"]}
    return Outcome(state, None if state in DIVERGED else 0.5, milestones=above | known, stage_seconds={stage: 10.0})


ENDS = st.sampled_from(["COMPLETE"] * 4 + ["FAILED", "INFEASIBLE", *STOPPED])


def outcome_of(branch, end, stage):
    """The trial ends so; what it shares came to its end before, and a search at test time always does."""
    params = branch.params
    if end in ("FAILED", "INFEASIBLE"):
        return Outcome(Status(end))
    on = ["operator", *(["diff_residual"] if params[EPOCHS] else [])]
    own = on if branch.stage is None else on[STAGES.index(branch.stage) + 1 :]
    if end == "COMPLETE" or not own:
        return complete(params)
    return ended_at(Status(end), own[stage % len(own)], params)


def prefix_of(params, level):
    return {name: value for name, value in params.items() if LEVELS[name] <= level}


@settings(max_examples=12, deadline=None)
@given(ends=st.lists(st.tuples(ENDS, st.integers(0, 1)), min_size=15, max_size=30), seed=st.integers(0, 999))
def test_a_proposal_lies_in_the_space_below_the_finished_prefix_it_names_and_was_not_made_before(three, ends, seed):
    tree, proposed, ends_at, dead = tree_of(three), [], [], []
    for number, (end, stage) in enumerate(ends):
        branch = tree.propose(number, seed=seed + number)
        params = branch.params
        assert all(three.domains[name].contains(value) for name, value in params.items())
        assert set(params) == {name for name in three.order if three.is_active(name, params)}
        # but for one that was stopped on its way: its prefix can be taken up, and then leads anywhere
        assert all(at % 1 for other, at in zip(proposed, ends_at, strict=True) if other == params)
        for level, prefix in dead:
            assert prefix_of(params, level) != prefix
        if branch.below is not None:
            above = proposed[branch.below]
            level = STAGES.index(branch.stage)
            assert prefix_of(params, level) == prefix_of(above, level)
            assert params != above or ends_at[branch.below] % 1
            # somebody who has that prefix came to its end, or was stopped there and is taken up again
            shared = prefix_of(above, level)
            assert any(
                at > level for other, at in zip(proposed, ends_at, strict=True) if prefix_of(other, level) == shared
            )
        tree.start(number, params)
        outcome = outcome_of(branch, end, stage)
        tree.end(number, params, outcome)
        proposed.append(params)
        if outcome.state is Status.COMPLETE:
            ends_at.append(len(STAGES))
            continue
        at = STAGES.index([*outcome.stage_seconds][-1]) if outcome.stage_seconds else -1
        ends_at.append(at + 0.5 * (outcome.state is Status.PRUNED))
        if outcome.state in SHARED and outcome.state is not Status.PRUNED:
            dead.append((at, prefix_of(params, at)))


@settings(max_examples=6, deadline=None)
@given(ends=st.lists(st.tuples(ENDS, st.integers(0, 1)), min_size=8, max_size=14), seed=st.integers(0, 999))
def test_the_same_seed_and_results_give_the_same_proposals_and_another_seed_others(three, ends, seed):
    def proposals(seed):
        tree, found = tree_of(three), []
        for number, (end, stage) in enumerate(ends):
            branch = tree.propose(number, seed=seed + number)
            found.append(branch)
            tree.start(number, branch.params)
            tree.end(number, branch.params, outcome_of(branch, end, stage))
        return found

    assert proposals(seed) == proposals(seed)
    assert proposals(seed) != proposals(seed + 1000)


@pytest.mark.parametrize("sampler", ["stage_tree", "grid"])
def test_every_combination_of_a_finite_space_is_proposed_once_and_then_it_ends(make_plan, tmp_path, sampler):
    trials = 50 if sampler == "stage_tree" else COMBINATIONS + 1
    plan = make_plan(space=FINITE, trials=trials, sampler=sampler, scheduler="none")
    with MadeUpSearch(plan, tmp_path / "s", lambda values, stage: 0.5) as search:
        records = search.run()
        assert search.driver.is_over
        assert search.driver.stop_reason == (EXHAUSTED if sampler == "stage_tree" else None)
    assert len(records) == COMBINATIONS + 1  # and the base, which is none of them
    assert Counter(record.state for record in records) == {Status.COMPLETE: COMBINATIONS + 1}
    assert len({tuple(record.params.items()) for record in records[1:]}) == COMBINATIONS


def test_what_is_left_of_a_finite_space_is_what_lies_below_no_stopped_prefix(base):
    space = space_of(base, FINITE)
    tree, number, proposed = tree_of(space), 0, []
    while (branch := tree.propose(number, seed=number)) is not None:
        tree.start(number, branch.params)
        dies = branch.params["latent.tokens"] == 16
        outcome = (
            Outcome(Status.EXPLODED, stage_seconds={"operator": 5.0})
            if dies
            else Outcome(Status.COMPLETE, 0.5, milestones={"operator:1": 0.5}, stage_seconds={"operator": 50.0})
        )
        tree.end(number, branch.params, outcome)
        proposed.append(branch.params)
        number += 1
    assert [params["latent.tokens"] for params in proposed].count(16) == 1
    assert len(proposed) == COMBINATIONS // 2 + 1


def test_what_a_stopped_trial_never_reached_is_proposed_again_once_its_prefix_is_taken_up(base):
    space = space_of(base, FINITE)
    tree, number, complete_ones, visited = tree_of(space), 0, set(), set()
    while (branch := tree.propose(number, seed=number)) is not None and number < 4 * COMBINATIONS:
        tree.start(number, branch.params)
        operator = branch.params["latent.tokens"]
        if operator in visited:
            outcome = Outcome(Status.COMPLETE, 0.5, milestones={"operator:1": 0.5}, stage_seconds={"operator": 50.0})
            complete_ones.add(tuple(branch.params.items()))
        else:
            visited.add(operator)
            outcome = Outcome(Status.PRUNED, 0.6, milestones={"operator:0.5": 0.6}, stage_seconds={"operator": 25.0})
        tree.end(number, branch.params, outcome)
        number += 1
    assert branch is None
    assert len(complete_ones) == COMBINATIONS


def test_below_a_prefix_that_was_stopped_inside_its_stage_there_is_one_trial_at_a_time(three):
    tree = tree_of(three)
    good = {LR: 3e-3, EPOCHS: 4, RATE: 1e-3, "ttc.enabled": True, CANDIDATES: 4}
    spoiled = [{**good, LR: lr, RATE: 1e-1} for lr in (1e-4, 3e-4, 1e-2, 3e-2)]
    assert set(good) == set(LEVELS)
    for number, params in enumerate([good, *spoiled]):
        tree.start(number, params)
        tree.end(number, params, complete(params))
    stopped = {**good, RATE: 2e-3}
    tree.start(5, stopped)
    promising = {"operator:1": smooth(stopped)["operator:1"], "diff_residual:0.5": 0.5 * complete(good).score}
    tree.end(5, stopped, Outcome(Status.PRUNED, 0.1, milestones=promising, stage_seconds={"diff_residual": 10.0}))
    below = 0
    for number in range(6, 106):
        branch = tree.propose(number, seed=number)
        tree.start(number, branch.params)
        below += prefix_of(branch.params, 1) == prefix_of(stopped, 1)
    assert below == 1


def root_names(tree, seed):
    """What is proposed upstream under a seed that opens a root for the sake of exploring; None for other seeds."""
    branch = tree.propose(10**6, seed=seed)
    return prefix_of(branch.params, 0) if branch.reason == "another root, to explore" else None


def test_eighty_children_of_a_root_count_as_its_best_child_alone(three):
    random = np.random.default_rng(0)
    draw = lambda: three.draw(lambda name, domain: random_value(domain, random))  # noqa: E731
    roots = [draw() for _ in range(12)]
    children = [{**draw(), LR: roots[3][LR]} for _ in range(80)]
    best = min(children, key=lambda params: min(smooth(params).values()))
    found = []
    for below in (children, [best]):
        tree = tree_of(three)
        for number, params in enumerate([*roots, *below]):
            tree.start(number, params)
            tree.end(number, params, complete(params))
        found.append([root_names(tree, seed) for seed in range(150)])
    assert found[0] == found[1]
    assert sum(names is not None for names in found[0]) > 5


def level_seed(seed):
    """Of the first level: each has chance of its own."""
    return int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])


def test_with_one_level_it_proposes_what_tpe_proposes_on_the_same_observations(base):
    space = space_of(base, {LR: THREE[LR], "latent.tokens": {"choice": [16, 32, 64]}})
    tree, startup = tree_of(space), 4
    study = optuna.create_study()
    distributions = {name: distribution_of(domain) for name, domain in space.domains.items()}
    states = optuna.trial.TrialState
    for number in range(20):
        branch = tree.propose(number, seed=number)
        sampler = optuna.samplers.TPESampler(
            seed=level_seed(number), n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
        study.sampler = sampler
        asked = study.ask()
        expected = {name: asked._suggest(name, distributions[name]) for name in space.order}
        assert branch.params == expected
        assert branch.below is None
        tree.start(number, branch.params)
        score = 0.1 + abs(math.log(branch.params[LR] / 3e-3))
        if number % 5 == 3:
            outcome = Outcome(Status.EXPLODED, stage_seconds={"operator": 1.0})
            asked.set_constraint("exploded", 1.0)
            study.tell(asked, 1.0)
        elif number % 5 == 4:
            outcome = Outcome(Status.PRUNED, score, milestones={"operator:0.5": score}, stage_seconds={"operator": 1.0})
            asked.report(score, 1)
            study.tell(asked, state=states.PRUNED)
        else:
            outcome = Outcome(Status.COMPLETE, score, milestones={"operator:1": score}, stage_seconds={"operator": 1.0})
            asked.set_constraint("exploded", 0.0)
            study.tell(asked, score)
        tree.end(number, branch.params, outcome)


def test_the_base_whose_values_the_space_does_not_have_is_no_prefix(make_plan, tmp_path):
    space = THREE | {"latent.tokens": {"choice": [16, 32]}}  # the base has 64
    with OpenStudy(tmp_path / "s", make_plan(space=space, trials=40, milestones=STAGED), resume=False) as study:
        proposer = Proposer(study)
        for _ in range(40):
            trial = proposer.next()
            proposer.tell(trial.number, complete({LR: 1e-3, EPOCHS: 0, "ttc.enabled": False, **trial.params}))
        below = [trial.user_attrs["below"] for trial in study.optuna.get_trials() if "below" in trial.user_attrs]
    assert below
    assert 0 not in below


def test_the_reported_time_left_bounds_what_is_proposed(three):
    tree = tree_of(three)
    random = np.random.default_rng(1)
    for number in range(8):
        params = three.draw(lambda name, domain: random_value(domain, random)) | {EPOCHS: 2, RATE: 1e-3}
        tree.start(number, params)
        tree.end(number, params, complete(params))
    # a whole trial takes 80 s or more, one below an operator 30 or more, one below a correction 5
    assert {tree.propose(99, seed=seed, seconds_left=20.0).stage for seed in range(20)} == {"diff_residual"}
    assert None not in {tree.propose(99, seed=seed, seconds_left=60.0).stage for seed in range(20)}
    assert tree.propose(99, seed=0, seconds_left=1.0) is None


def dear_operators(values, stage):
    """Most of the error hangs on what lies downstream of a dear operator."""
    score = 0.2 * math.exp(0.05 * abs(math.log(values[LR] / 3e-3)))
    if stage != "operator" and values[EPOCHS]:
        score *= math.exp(0.25 * abs(math.log(values[RATE] / 2e-4)) - 0.1 * values[EPOCHS])
    if stage == "inference":
        score *= 1.1 - 0.02 * values[CANDIDATES]
    return score


def test_a_score_costs_clearly_less_than_with_tpe_where_operators_are_dear(make_plan, tmp_path):
    seconds = {}
    for sampler in ("stage_tree", "tpe"):
        for seed in range(2):
            plan = make_plan(space=THREE, trials=150, startup_trials=5, sampler=sampler, seed=seed, milestones=STAGED)
            with MadeUpSearch(plan, tmp_path / f"{sampler}{seed}", dear_operators) as search:
                search.run(lambda: search.best <= 0.14 or search.spent > 5000)
                seconds.setdefault(sampler, []).append(search.spent)
    assert np.mean(seconds["stage_tree"]) < 0.6 * np.mean(seconds["tpe"]), seconds


def test_the_share_of_diverging_proposals_falls(make_plan, tmp_path):
    """Good learning rates stand before a cliff, and three fifths of the space lie behind it. As a failure, which is
    what a search without verdicts would tell, explosions teach nothing."""
    shares = {}
    for verdict in (Status.EXPLODED, Status.FAILED):
        for seed in range(3):
            plan = make_plan(space={LR: THREE[LR], EPOCHS: {"int": [1, 4]}}, trials=50, seed=seed, milestones=STAGED)

            def score(values, stage, verdict=verdict):
                return verdict if values[LR] > 1e-2 else 0.1 + abs(math.log(values[LR] / 5e-3)) - 0.01 * values[EPOCHS]

            with MadeUpSearch(plan, tmp_path / f"{verdict}{seed}", score) as search:
                diverged = [record.state is verdict for record in search.run()]
            shares.setdefault(verdict, []).append((np.mean(diverged[:15]), np.mean(diverged[-25:])))
    (early, late), (_, late_untold) = (np.mean(each, axis=0) for each in shares.values())
    assert late < early, shares
    assert late < min(0.4, late_untold - 0.2), shares


def test_stages_below_a_branch_are_other_ones_and_those_above_are_shared(three, base):
    tree, started = tree_of(three), []
    for number in range(40):
        branch = tree.propose(number, seed=number)
        params = branch.params
        if branch.below is not None:
            ours, theirs = keys_of(three.config_of(params)), keys_of(three.config_of(started[branch.below]))
            shared = STAGES[: STAGES.index(branch.stage) + 1]
            assert all(ours.get(stage) == theirs.get(stage) for stage in shared)
        started.append(params)
        tree.start(number, params)
        tree.end(number, params, complete(params))


def test_a_prefix_that_is_gone_is_never_taken_for_a_later_one(three):
    """Prefixes come and go: nothing is learned of one that was never reached, nor may it stand for a later one."""
    tree = tree_of(three)
    for number in range(0, 100, 2):
        first = {LR: 1e-3 * (1 + number), EPOCHS: 2, RATE: 1e-3, "ttc.enabled": False}
        tree.start(number, first)
        # stopped at the end of its operator: its correction is never reached
        score = smooth(first)["operator:1"]
        tree.end(
            number,
            first,
            Outcome(Status.PRUNED, score, milestones={"operator:1": score}, stage_seconds={"operator": 10.0}),
        )
        second = {**first, LR: 1e-3 * (2 + number)}
        tree.start(number + 1, second)
        seen = {entry.number: entry.state for entry in tree._shelves[1].seen()}
        assert seen[number + 1] is TrialState.RUNNING
        assert number not in seen
        tree.end(number + 1, second, complete(second))

"""The space: what is refused and how, and that nothing outside it is ever proposed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.checks import check_space, load_plan_from_space, random_value
from tune.domain import holds
from tune.space import SearchConfig, Space, duration_seconds
from tune.study import Plan
from ups.core.errors import ConfigError

LR = "stages.operator.optimizer.lr"
WEIGHT = "stages.operator.losses.inverse_encoding.weight"
WARMUP = "stages.operator.losses.inverse_encoding.warmup"


def parse(space, **settings):
    return SearchConfig.parse({"base": "base.yaml", "space": space, **settings})


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({"latent.tokns": {"int": [1, 2]}}, "space.latent.tokns: unknown key; did you mean 'latent.tokens'?"),
        ({"task.space_stride": {"choice": [1, 2]}}, "space.task.space_stride: a search may not change the task"),
        ({"runtime.seed": {"int": [1, 2]}}, "space.runtime.seed: a search may not change the task"),
        ({"stages.operator.validations": {"int": [4, 8]}}, "space.stages.operator.validations: a search may not"),
        ({"logging.log_every_n_steps": {"int": [1, 2]}}, "space.logging.log_every_n_steps: does not change what"),
        ({"latent.tokens": {"int": [0, 8]}}, "space.latent.tokens: 0 makes no valid config: latent.tokens: input"),
        ({"operator.kind": {"choice": ["pdet_stack", "x"]}}, "space.operator.kind: 'x' makes no valid config"),
        ({"latent.tokens": {"int": [8, 8]}}, "space.latent.tokens: the low end must be below the high end, got [8, 8]"),
        ({LR: {"float": [0, 1], "log": True}}, f"space.{LR}: log needs a low end above 0, got 0"),
        ({LR: {"choice": [0.1, 0.2], "log": True}}, "log goes with float or int"),
        ({LR: {"float": [0.1, 1], "int": [1, 2]}}, "a domain has exactly one of float, int, choice"),
        ({LR: {"float": [0.1, 1], "wen": {}}}, "unknown key 'wen'; a domain has float, int, choice, log, when"),
        ({LR: 3}, "a domain is a mapping"),
        ({LR: {"choice": []}}, "at least one choice"),
        ({LR: {"choice": [0.1, 0.1]}}, "0.1 stands there twice"),
        ({"latent": {"int": [1, 2]}, "latent.dim": {"int": [2, 4]}}, "a name may not be the prefix of another"),
        ({"inverse": {"choice": [False, True]}}, "space.inverse: unknown key"),
        (
            {"inverse": {"float": [0, 1]}, WEIGHT: {"float": [0.1, 1], "when": {"inverse": True}}},
            "a switch of the space is a choice",
        ),
        (
            {LR: {"float": [0.1, 1], "when": {"latent.tokns": 8}}},
            f"space.{LR}.when.latent.tokns: neither a name of the space nor a config path; did you mean",
        ),
        (
            {"latent.tokens": {"int": [8, 16]}, LR: {"float": [0.1, 1], "when": {"latent.tokens": "> 16"}}},
            "'> 16' never holds, ends are [8, 16]",
        ),
        ({LR: {"float": [0.1, 1], "when": {"operator.depth": "> 99"}}}, "'> 99' never holds, the base has"),
        (
            {
                "latent.tokens": {"int": [8, 16], "when": {"latent.dim": "> 8"}},
                "latent.dim": {"int": [8, 16], "when": {"latent.tokens": "> 8"}},
            },
            "conditions go round in a circle: latent.tokens -> latent.dim -> latent.tokens",
        ),
    ],
)
def test_a_bad_space_is_refused_in_one_line(base, space, line):
    with pytest.raises(ConfigError) as error:
        check_space(parse(space), base)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        ({"milestones": {"operator": [0.3, 1]}}, "must be multiples of 1/4 (stages.operator.validations of the base)"),
        ({"milestones": {"operatr": [0.5, 1]}}, "strategy.milestones.operatr: no such stage in the base"),
        ({"milestones": {"operator": [0.5, 0.25]}}, "shares of operator must increase"),
        ({"milestones": {"inference": [0.5, 1]}}, "milestones.inference: must be multiples of 1/1 (it is scored once)"),
        ({"milestones": {"operator": [0.5, 1.5]}}, "shares of operator must lie in (0, 1]"),
        (
            {"sampler": "hebo"},
            "strategy.sampler: input should be 'stage_tree', 'tpe', 'gp', 'cmaes', 'random' or 'grid', got 'hebo'",
        ),
        ({"trails": 3}, "strategy.trails: unknown key; did you mean 'strategy.trials'?"),
    ],
)
def test_a_bad_strategy_is_refused_in_one_line(base, strategy, line):
    with pytest.raises(ConfigError) as error:
        check_space(parse({LR: {"float": [0.1, 1]}}, strategy=strategy), base)
    assert line in str(error.value)


def test_an_end_that_goes_with_another_value_of_the_space_is_accepted(base):
    attention = base.override({"operator.mixer": "attention", "operator.hidden_dim": 64, "operator.num_heads": 4})
    heads = {"operator.num_heads": {"choice": [4, 5]}}
    with pytest.raises(ConfigError, match=r"num_heads: 5 makes no valid config"):
        check_space(parse(heads), attention)
    check_space(parse(heads | {"operator.hidden_dim": {"choice": [64, 80]}}), attention)


@pytest.mark.parametrize(
    ("condition", "met", "missed"),
    [
        ("> 0", (1, 0.5), (0, -1, None, "a", True)),
        (">= 2", (2, 3.0), (1, None)),
        ("< 1e-3", (1e-4,), (1e-3, 1)),
        ("!= pdet_stack", ("pdet_unet", None), ("pdet_stack",)),
        ("== 3", (3, 3.0), (4, "3")),
        (True, (True,), (1, False, "true", None)),
        ("grid", ("grid",), ("anypoint", None)),
        (None, (None,), (0, False)),
    ],
)
def test_conditions(condition, met, missed):
    assert all(holds(condition, value) for value in met)
    assert not any(holds(condition, value) for value in missed)


CONDITIONAL = {
    "inverse": {"choice": [False, True]},
    WEIGHT: {"float": [1e-4, 0.5], "log": True, "when": {"inverse": True}},
    WARMUP: {"float": [0.1, 0.5], "when": {WEIGHT: "> 0.01"}},
    "decoder.kind": {"choice": ["grid", "anypoint"]},
    "decoder.frequencies": {"int": [2, 9], "when": {"decoder.kind": "anypoint"}},
    "latent.tokens": {"int": [8, 128], "log": True},
}


@given(seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_drawn_config_has_active_values_from_their_domains_and_base_values_elsewhere(base, seed):
    space = Space(parse(CONDITIONAL).space, base)
    random = np.random.default_rng(seed)
    params = space.draw(lambda name, domain: random_value(domain, random))
    flat = space.config_of(params).flat()
    for name, domain in space.domains.items():
        if name in params:
            assert domain.contains(params[name])
            assert name in space.switches or flat[name] == params[name]
        else:
            assert flat.get(name) == base.flat().get(name)
    assert (WEIGHT in params) == params["inverse"]
    assert (WARMUP in params) == (params.get(WEIGHT, 0) > 0.01)
    assert ("decoder.frequencies" in params) == (params["decoder.kind"] == "anypoint")
    changed = {path for path, value in flat.items() if base.flat().get(path, value) != value}
    assert changed <= set(space.domains)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_place_of_a_config_in_the_space_is_what_it_was_drawn_from(base, seed):
    space = Space(parse(CONDITIONAL).space, base)
    random = np.random.default_rng(seed)
    params = space.draw(lambda name, domain: random_value(domain, random))
    assert space.params_of(space.config_of(params)) == params


def test_names_are_drawn_after_what_their_conditions_ask_for(base):
    backwards = dict(reversed(CONDITIONAL.items()))
    order = Space(parse(backwards).space, base).order
    assert order.index("inverse") < order.index(WEIGHT) < order.index(WARMUP)


def write_space(folder, text, base):
    from ups.config import dump_yaml

    (folder / "base.yaml").write_text(dump_yaml(base))
    (folder / "space.yaml").write_text(text)
    return str(folder / "space.yaml")


INVERSE = f"""
base: base.yaml
space:
  {LR}: {{float: [1e-4, 1e-2], log: true}}
  latent.tokens: {{choice: [16, 32]}}
  latent.dim: {{choice: [32, 64], when: {{latent.tokens: 32}}}}
"""


def test_an_overridden_path_leaves_the_space_and_takes_what_hangs_on_it_along(base, tmp_path):
    path = write_space(tmp_path, INVERSE, base)
    assert set(load_plan_from_space(path).config.space) == {LR, "latent.tokens", "latent.dim"}
    plan = load_plan_from_space(path, {"latent.tokens": 16})
    assert set(plan.config.space) == {LR}
    assert plan.base.latent.tokens == 16
    plan = load_plan_from_space(path, {"latent.tokens": 32})
    assert set(plan.config.space) == {LR, "latent.dim"}
    with pytest.raises(ConfigError, match="nothing is left to search"):
        load_plan_from_space(path, {"latent.tokens": 16, LR: 1e-3})


def test_start_from_keeps_its_model_and_gets_the_task_and_machine_of_the_base(base, tmp_path):
    from ups.config import dump_yaml

    start = base.override({"operator.depth": 5, "runtime.threads": 7, LR: 0.5})
    (tmp_path / "start.yaml").write_text(dump_yaml(start))
    path = write_space(tmp_path, INVERSE + "start_from: [start.yaml]\n", base)
    (found,) = load_plan_from_space(path).start_from
    assert found == base.override({"operator.depth": 5, LR: 0.5})
    assert load_plan_from_space(path).goldens == ()
    golden = base.model_copy(update={"provenance": {"study": "earlier"}})
    (tmp_path / "start.yaml").write_text(dump_yaml(golden))
    plan = load_plan_from_space(path)
    assert plan.goldens == ("start.yaml",)
    assert Plan.from_yaml(plan.to_yaml()) == plan
    assert replace(plan, base=golden).goldens == ("base", "start.yaml")
    (tmp_path / "start.yaml").write_text(dump_yaml(base.override({"task.time_stride": 2})))
    with pytest.raises(ConfigError, match=r"another task: task.time_stride is 2, the base has 1"):
        load_plan_from_space(path)


def test_settings_of_the_search_can_be_given_from_outside(base, tmp_path):
    path = write_space(tmp_path, INVERSE, base)
    plan = load_plan_from_space(path, None, {"strategy.trials": 7, "budget.time": "1h30m"})
    assert (plan.config.strategy.trials, plan.config.budget.seconds) == (7, 5400)
    with pytest.raises(ConfigError, match=r"strategy.trials: .*got 0"):
        load_plan_from_space(path, None, {"strategy.trials": 0})
    with pytest.raises(ConfigError, match=r"budget.time: a duration is written like 90s"):
        load_plan_from_space(path, None, {"budget.time": "soon"})


def test_durations():
    assert [duration_seconds(text) for text in ("90s", "90", "30m", "2h", "1h30m", "0.5h")] == [
        90,
        90,
        1800,
        7200,
        5400,
        1800,
    ]


GRID = """
base: base.yaml
space:
  latent.tokens: {choice: [16, 32]}
  operator.depth: {int: [2, 4]}
strategy: {sampler: grid}
"""


def test_a_grid_that_does_not_say_its_trials_has_as_many_as_combinations_and_the_base(base, tmp_path):
    path = write_space(tmp_path, GRID, base)  # the base has 64 tokens
    assert load_plan_from_space(path).config.strategy.trials == 7
    assert load_plan_from_space(path, {"latent.tokens": 16}).config.strategy.trials == 3  # depth 4 is the base itself
    assert load_plan_from_space(path, None, {"strategy.trials": 4}).config.strategy.trials == 4
    with pytest.raises(ConfigError, match=r"strategy.trials: at most the 7 of the grid .* got 8; leave it out"):
        load_plan_from_space(path, None, {"strategy.trials": 8})
    write_space(tmp_path, GRID.replace("int: [2, 4]", "float: [2, 4]").replace("operator.depth", LR), base)
    with pytest.raises(ConfigError, match=rf"space.{LR}: a grid has no intervals"):
        load_plan_from_space(path)


def test_a_space_may_be_repeated_on_another_seed(base, tmp_path):
    (tmp_path / "start.yaml").write_text("include: base.yaml\noperator: {depth: 3}\n")
    path = write_space(tmp_path, INVERSE + "start_from: [start.yaml]\n", base)
    plan = load_plan_from_space(path, {"runtime.seed": 7})
    assert {config.runtime.seed for config in (plan.base, *plan.start_from)} == {7}
    assert plan.config == load_plan_from_space(path).config
    assert plan.space.config_of({"latent.tokens": 16}).runtime.seed == 7


def test_a_knob_of_a_stage_that_is_off_is_refused(base):
    rate = "stages.diff_residual.optimizer.lr"
    knob = {rate: {"float": [1e-5, 1e-3]}}
    with pytest.raises(ConfigError, match=rf"space.{rate}: has no effect, the stage is off: stages.diff_residual.ep"):
        check_space(parse(knob), base)
    check_space(parse(knob), base.override({"stages.diff_residual.epochs": 2}))
    check_space(parse(knob | {"stages.diff_residual.epochs": {"int": [0, 2]}}), base)
    with pytest.raises(ConfigError, match=r"strategy.milestones.diff_residual: must be multiples of 1/8"):
        check_space(parse({LR: {"float": [0.1, 1]}}, strategy={"milestones": {"diff_residual": [0.3]}}), base)


def test_a_knob_of_a_search_at_test_time_that_no_trial_has_is_refused(base):
    knob = {"ttc.candidates": {"int": [2, 8]}}
    with pytest.raises(ConfigError, match=r"space.ttc.candidates: has no effect, there is no search at test time"):
        check_space(parse(knob), base)
    check_space(parse(knob), base.override({"ttc.enabled": True}))
    check_space(parse(knob | {"ttc.enabled": {"choice": [True]}}), base)

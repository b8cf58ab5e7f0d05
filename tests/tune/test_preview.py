"""What a search would cost, without training anything."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from tune.preview import estimate_seconds, preview
from tune.space import SearchConfig
from tune.study import Plan
from ups.config import RunConfig
from ups.data.task import load_task

STAGE = {"epochs": 2, "windows_per_trajectory": 2, "batch_size": 8, "validations": 2}


@pytest.fixture(scope="module")
def config(tiny):
    corrector = {"mixer": "conv", "depth": 1, "hidden_dim": 16}
    stages = {**tiny["stages"], "diff_residual": STAGE, "consistency_distill": STAGE}
    return RunConfig.parse({**tiny, "stages": stages, "corrector": corrector})


def test_every_stage_that_is_on_takes_its_time(config, monkeypatch):
    # a second between two looks at the clock: however busy the machine is, every step takes as long as any other
    clock = map(float, itertools.count())
    monkeypatch.setattr("tune.preview.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    task = load_task(config.task)
    longer = config.override({"stages.diff_residual.epochs": 2000, "stages.consistency_distill.epochs": 0})
    off = config.override({"stages.diff_residual.epochs": 0, "stages.consistency_distill.epochs": 0})
    both = config.override({"stages.diff_residual.epochs": 2000, "stages.consistency_distill.epochs": 4000})
    seconds = [estimate_seconds(each, task) for each in (off, longer, both)]
    assert seconds[0] < 0.5 * seconds[1] < 0.5 * seconds[2]


def test_a_preview_is_the_base_and_sampled_configs_with_their_sizes(config):
    space = {"stages.diff_residual.epochs": {"int": [0, 2]}, "latent.tokens": {"choice": [4, 8, 64]}}
    search = {"base": "base.yaml", "space": {**space, "operator.depth": {"int": [1, 2]}}}
    base = config.override({"stages.consistency_distill.epochs": 0})
    found = list(preview(Plan(SearchConfig.parse(search), base), 8))
    assert found[0].params == {}
    assert len(found) == 9
    for each in found[1:]:
        infeasible = each.params["latent.tokens"] == 64
        assert ("latent.tokens" in each.reason) == infeasible
        assert (each.parameters is None) == (each.seconds is None) == infeasible


def test_on_a_finished_run_only_the_search_at_test_time_takes_time(config):
    task = load_task(config.task)
    assert estimate_seconds(config, task, trains=False) == 0.0
    for source in ("none", "student"):
        searched = config.override({"ttc.enabled": True, "ttc.candidates": 2, "ttc.source": source})
        assert estimate_seconds(searched, task, trains=False) > 0.0
    plain = config.override({"ttc.enabled": True, "ttc.candidates": 1})
    assert estimate_seconds(plain, task, trains=False) > 0.0

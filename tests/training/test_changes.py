"""Settings that change on the way: a run that goes on from another's state is the run of the config that says so."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes_loop import NoisyStage
from hypothesis import given
from hypothesis import strategies as st

from ups.config import RunConfig, dump_yaml, load_config
from ups.core.artifacts import ArtifactStore
from ups.core.checkpoint import load_checkpoint
from ups.core.errors import ConfigError
from ups.core.runtime import RuntimeConfig
from ups.core.schema import fingerprint
from ups.core.types import Progress, RunResult, Status
from ups.data.task import load_task
from ups.run import train_run
from ups.training import loop
from ups.training.keys import key_until, stage_keys
from ups.training.loop import StageResult, train_stage
from ups.training.stage_config import LoggingConfig, StageConfig

STAGE = "stages.operator."
CHANGES = STAGE + "changes"
KEPT = {"logging.keep_at": [0.25, 0.5]}


@pytest.fixture(scope="module")
def config(tiny: dict[str, Any]) -> RunConfig:
    # three batches an accumulated update, so that milestones fall between two updates
    changes = {STAGE + "epochs": 8, STAGE + "accumulation_steps": 3, STAGE + "optimizer.lr": 1e-2}
    return RunConfig.parse(tiny).override({**changes, "logging.log_every_n_steps": 1})


@pytest.fixture(scope="module")
def fingerprint_of_data(config: RunConfig) -> str:
    return load_task(config.task).fingerprint


def change(share: float, **settings: float) -> dict[str, float]:
    return {"share": share, **settings}


def steps_of(config: RunConfig, out: Path, store: Path | None = None) -> tuple[RunResult, list[int]]:
    """A run, and the steps that it trained itself."""
    steps: list[int] = []

    def note(progress: Progress) -> None:
        steps.append(progress.step)

    return train_run(config, out, note, evaluate_on="none", store=store), sorted(set(steps))


def assert_equal(ours: RunResult, theirs: RunResult) -> None:
    assert ours.status is theirs.status is Status.COMPLETE
    assert (ours.score, ours.milestones) == (theirs.score, theirs.milestones)
    for name in ("best", "last"):
        left, right = (
            load_checkpoint(run.folder / f"checkpoints/operator/{name}.safetensors") for run in (ours, theirs)
        )
        assert left.tensors.keys() == right.tensors.keys()
        assert all(torch.equal(value, right.tensors[key]) for key, value in left.tensors.items()), name
    # the averages, the optimizer and the counters as well, but for the clock
    states = [dict(load_checkpoint(run.folder / "checkpoints/operator/last.safetensors").facts["state"])
              for run in (ours, theirs)]  # fmt: skip
    assert len({fingerprint({**state, "seconds": 0.0}) for state in states}) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_goes_on_from_another_equals_the_whole_run_of_its_config(
    config: RunConfig, tmp_path: Path, optimizer: str
) -> None:
    parent = config.override({**KEPT, STAGE + "optimizer.name": optimizer})
    child = parent.override({CHANGES: [change(0.5, lr=7e-3, weight_decay=0.3)]})
    grandchild = parent.override({CHANGES: [change(0.25, lr=2e-2), change(0.5, weight_decay=0.2)]})
    store = tmp_path / "store"
    _, all_steps = steps_of(parent, tmp_path / "parent", store)
    half, quarter = all_steps[len(all_steps) // 2], all_steps[len(all_steps) // 4]
    forked, steps = steps_of(child, tmp_path / "child", store)
    assert steps == [step for step in all_steps if step >= half]
    again, steps = steps_of(grandchild, tmp_path / "grandchild", store)
    assert steps == [step for step in all_steps if step >= quarter]
    for run, found in ((child, forked), (grandchild, again)):
        alone, steps = steps_of(run.override({"logging.keep_at": []}), tmp_path / f"alone-{found.folder.name}")
        assert steps == all_steps
        assert_equal(found, alone)
    assert len({forked.score, again.score}) == 2


def test_the_time_that_another_run_paid_for_is_not_counted_again(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every look at the clock is a second later
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    store = tmp_path / "store"
    train_run(config.override(KEPT), tmp_path / "parent", evaluate_on="none", store=store)
    kept = {each.what: each for each in ArtifactStore(store).ls()}
    assert set(kept) == {"operator", "operator until 0.25", "operator until 0.5"}
    assert 0 < kept["operator until 0.25"].seconds < kept["operator until 0.5"].seconds < kept["operator"].seconds
    seconds: list[float] = []
    child = config.override({CHANGES: [change(0.5, lr=7e-3)]})
    train_run(child, tmp_path / "child", lambda each: seconds.append(each.seconds), evaluate_on="none", store=store)
    assert seconds[0] < kept["operator until 0.5"].seconds


class Killed(Exception):
    pass


def test_a_run_that_went_on_from_another_and_was_killed_is_resumed_exactly(config: RunConfig, tmp_path: Path) -> None:
    store = tmp_path / "store"
    train_run(config.override(KEPT), tmp_path / "parent", evaluate_on="none", store=store)
    child = config.override({CHANGES: [change(0.25, lr=7e-3)]})
    whole = train_run(child, tmp_path / "whole", evaluate_on="none")

    def kill(progress: Progress) -> None:
        if progress.share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        train_run(child, tmp_path / "child", kill, evaluate_on="none", store=store)
    resumed = train_run(child, tmp_path / "child", evaluate_on="none", store=store, resume=True)
    assert_equal(resumed, whole)
    facts = load_checkpoint(resumed.folder / "checkpoints/operator/best.safetensors").facts
    assert facts["config"] == child.model_dump(mode="json")


def test_a_state_that_differs_before_the_change_is_not_gone_on_from(config: RunConfig, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _, all_steps = steps_of(config.override(KEPT), tmp_path / "parent", store)
    others: list[Mapping[str, Any]] = [
        {STAGE + "optimizer.lr": 3e-3, CHANGES: [change(0.5, lr=7e-3)]},
        {"runtime.seed": 5, CHANGES: [change(0.5, lr=7e-3)]},
        {STAGE + "epochs": 9, CHANGES: [change(0.5, lr=7e-3)]},
        {CHANGES: [change(0.1, lr=5e-3), change(0.5, lr=7e-3)]},
        {CHANGES: [change(0.75, lr=7e-3)]},
        # such a run does not repeat itself
        {STAGE + "time_limit_seconds": 100.0, CHANGES: [change(0.5, lr=7e-3)]},
    ]
    for number, other in enumerate(others):
        _, steps = steps_of(config.override(other), tmp_path / f"other{number}", store)
        assert steps[0] == all_steps[0], other


def test_nobody_goes_on_from_a_stage_that_stalled(config: RunConfig, tmp_path: Path) -> None:
    hopeless = config.override({STAGE + "optimizer.lr": 1e-9, "logging.keep_at": [0.25, 0.5]})
    store = tmp_path / "store"
    assert train_run(hopeless, tmp_path / "run", evaluate_on="none", store=store).status is Status.STALLED
    assert {each.what for each in ArtifactStore(store).ls()} == {"operator", "operator until 0.25"}
    # the state before the verdict leads to the same verdict, unless what changes saves it
    child = hopeless.override({CHANGES: [change(0.25, weight_decay=0.1)]})
    assert train_run(child, tmp_path / "child", evaluate_on="none", store=store).status is Status.STALLED


def test_a_missing_state_costs_time_alone(config: RunConfig, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _, all_steps = steps_of(config.override(KEPT), tmp_path / "parent", store)
    assert ArtifactStore(store).gc(0).fits
    child = config.override({CHANGES: [change(0.5, lr=7e-3)]})
    _, steps = steps_of(child, tmp_path / "child", store)
    assert steps == all_steps


def _train(config: StageConfig, folder: Path) -> StageResult:
    return train_stage(
        NoisyStage(config), folder=folder, facts={}, runtime=RuntimeConfig(), logging=LoggingConfig(),
        report=lambda progress: None, resume=False,
    )  # fmt: skip


def test_a_change_is_what_holds_from_its_share_on(tmp_path: Path) -> None:
    """Against its definition: the weights at the last validation before a share do not know of what changes there."""
    plain = StageConfig.parse({"epochs": 4, "validations": 4, "optimizer": {"lr": 1e-2}})
    first = _train(plain, tmp_path / "plain").milestones
    for share in (0.25, 0.5, 0.75):
        for settings in ({"lr": 1e-3}, {"weight_decay": 2.0}):
            changed = plain.override({"changes": [change(share, **settings)]})
            found = _train(changed, tmp_path / f"{share}-{next(iter(settings))}").milestones
            for key, score in found.items():
                assert (score == first[key]) == (float(key.split(":")[1]) <= share), (share, settings, key)
    same = plain.override({"changes": [change(0.5, lr=1e-2, weight_decay=plain.optimizer.weight_decay)]})
    assert _train(same, tmp_path / "same").milestones == first


shares = st.sampled_from([0.1, 0.25, 0.5, 0.75])
settings = st.fixed_dictionaries({}, optional={"lr": st.floats(1e-4, 1e-1), "weight_decay": st.floats(0, 1)})


@given(st.dictionaries(shares, settings.filter(bool), max_size=3), shares)
def test_what_holds_at_a_share_is_the_latest_of_each_setting(changes: dict[float, dict[str, float]], at: float) -> None:
    config = StageConfig.parse({"changes": [change(share, **changes[share]) for share in sorted(changes)]})
    for name in ("lr", "weight_decay"):
        said = [changes[share][name] for share in sorted(changes) if share <= at and name in changes[share]]
        assert config.changed(at).get(name) == (said[-1] if said else None)
    assert config.changed(0.0) == {}


def test_keys_know_of_changes_and_of_nothing_else(config: RunConfig, fingerprint_of_data: str, tmp_path: Path) -> None:
    def key(changes: list[dict[str, float]], until: float | None = None) -> str:
        changed = config.override({CHANGES: changes})
        if until is None:
            return stage_keys(changed, fingerprint_of_data)["operator"]
        return key_until(changed, fingerprint_of_data, "operator", until)

    early, late = change(0.25, lr=1e-3), change(0.5, weight_decay=0.1)
    menu = [[], [early], [late], [early, late]]
    assert len({key(changes) for changes in menu}) == 4
    assert key([], 0.25) == key([early], 0.25) == key([early, late], 0.25)
    assert key([early], 0.5) == key([early, late], 0.5) != key([], 0.5)
    states = {key(changes, until) for changes, until in itertools.product(menu, (0.25, 0.5, 0.75))}
    assert len(states) == 7
    assert not states & {key(changes) for changes in menu}
    # a stage without changes has the key of a config that knows no such setting
    (tmp_path / "plain.yaml").write_text(dump_yaml(config))
    assert stage_keys(load_config(tmp_path / "plain.yaml"), fingerprint_of_data)["operator"] == key([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([change(0.5)], "a change gives lr, weight_decay or both"),
        ([change(0.5, lr=1e-3), change(0.25, lr=1e-3)], "shares must increase"),
        ([change(0.5, lr=1e-3), change(0.5, lr=1e-3)], "shares must increase"),
        ([change(0.0, lr=1e-3)], "changes.0.share: input should be greater than 0"),
        ([change(1.0, lr=1e-3)], "changes.0.share: input should be less than 1"),
        ([change(0.5, lr=0.0)], "changes.0.lr: input should be greater than 0"),
    ],
)
def test_a_change_that_means_nothing_is_refused(
    config: RunConfig, changes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        config.override({CHANGES: changes})

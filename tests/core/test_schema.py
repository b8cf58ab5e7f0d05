"""A config is frozen, complete, and refuses what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.config import RunConfig, diff
from ups.core.errors import ConfigError
from ups.core.schema import known_paths

MINIMAL: dict[str, Any] = {"task": {"equation": "burgers", "files": ["a.h5"], "train": 4, "validation": 2, "test": 2}}


@pytest.fixture(scope="module")
def base() -> RunConfig:
    return RunConfig.parse(MINIMAL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.pach": 2}, "encoder.pach: unknown key; did you mean 'encoder.patch'?"),
        ({"stages.operator.optimiser.lr": 1.0}, "did you mean 'stages.operator.optimizer.lr'?"),
        ({"operator.depth": 0}, "operator.depth: input should be greater than or equal to 1, got 0"),
        ({"latent.tokens": "many"}, "latent.tokens: input should be a valid integer"),
        (
            {"operator.mixer": "attention", "operator.num_heads": 5},
            "operator: hidden_dim must be divisible by num_heads, got 64 and 5",
        ),
        ({"decoder.window": 3}, "decoder.window: this key belongs to another kind"),
        ({"runtime.seed": -1}, "runtime.seed: input should be greater than or equal to 0, got -1"),
        ({"task.frames": 5, "stages.operator.losses.rollout.horizon": 5}, "horizon must be below task.frames"),
        ({"baseline.kind": "fno", "inference.rollout": "latent"}, "a baseline has no latent"),
    ],
)
def test_refusals_name_path_value_and_rule(base: RunConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r".") as error:
        base.override(change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"task\.files: required key is missing"):
        RunConfig.parse({"task": {key: value for key, value in MINIMAL["task"].items() if key != "files"}})


def test_frozen(base: RunConfig) -> None:
    with pytest.raises(ValueError, match="frozen"):
        base.latent.tokens = 3  # type: ignore[misc]


def test_choosing_a_kind_keeps_shared_keys_and_drops_the_rest(base: RunConfig) -> None:
    other = base.override({"decoder.width": 32}).override({"decoder.kind": "anypoint", "decoder.window": 2})
    assert other.flat()["decoder.width"] == 32
    assert "decoder.cell_width" not in other.flat()


def test_an_absent_section_is_opened_by_its_path(base: RunConfig) -> None:
    config = base.override({"baseline.kind": "fno", "baseline.width": 8})
    assert config.baseline is not None
    assert config.baseline.width == 8


@given(
    tokens=st.integers(1, 512),
    lr=st.floats(1e-6, 1.0),
    mixer=st.sampled_from(["attention", "conv", "spectral", "hybrid"]),
)
def test_override_changes_the_named_leaves_alone(tokens: int, lr: float, mixer: str) -> None:
    base = RunConfig.parse(MINIMAL)
    change = {"latent.tokens": tokens, "stages.operator.optimizer.lr": lr, "operator.mixer": mixer}
    changed = base.override(change)
    assert set(diff(base, changed)) <= set(change)
    assert {path: changed.flat()[path] for path in change} == change
    # the fingerprint is a function of the value alone, whatever the way to it
    assert changed.fingerprint() == RunConfig.parse(changed.model_dump(mode="json")).fingerprint()
    assert (changed.fingerprint() == base.fingerprint()) == (not diff(base, changed))


def test_known_paths_cover_every_leaf_of_every_kind(base: RunConfig) -> None:
    known = set(known_paths(RunConfig))
    assert {path for path in base.flat() if not path.startswith("provenance")} <= known
    assert {"decoder.cell_width", "decoder.window", "baseline.modes"} <= known

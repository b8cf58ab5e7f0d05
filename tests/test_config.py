"""YAML in and out, includes and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from ups.config import diff, dump_yaml, load_config, parse_overrides
from ups.core.errors import ConfigError

BASE = """
task: {equation: burgers, files: [a.h5], train: 4, validation: 2, test: 2}
latent: {tokens: 16}
decoder: {kind: grid, cell_width: 3}
stages: {operator: {optimizer: {lr: 1e-3}}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def test_round_trip(base: Path, tmp_path: Path) -> None:
    config = load_config(base)
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(config))
    assert load_config(again) == config
    assert config.stages.operator.optimizer.lr == 1e-3


def test_include_is_relative_and_merges(base: Path, tmp_path: Path) -> None:
    below = tmp_path / "more" / "wide.yaml"
    below.parent.mkdir()
    below.write_text("include: ../base.yaml\nlatent: {dim: 8}\n")
    assert diff(load_config(base), load_config(below)) == {"latent.dim": (64, 8)}


@pytest.mark.parametrize("name", ["burgers1d.yaml", "burgers1d"])
def test_include_finds_a_shipped_config(tmp_path: Path, name: str) -> None:
    below = tmp_path / "mine.yaml"
    below.write_text(f"include: {name}\nlatent: {{dim: 8}}\n")
    assert list(diff(load_config("burgers1d"), load_config(below))) == ["latent.dim"]


def test_include_of_another_kind_replaces_the_section(base: Path, tmp_path: Path) -> None:
    below = tmp_path / "points.yaml"
    below.write_text("include: base.yaml\ndecoder: {kind: anypoint}\n")
    assert load_config(below).decoder.kind == "anypoint"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: self.yaml\n", "include: cycle self.yaml -> self.yaml"),
        ("include: nowhere.yaml\n", "include: nowhere.yaml: no such file"),
        ("include: [a, b]\n", "expected the name of one YAML file"),
        ("- a list\n", "expected a mapping"),
        ("latent: {tokens: 4\n", "not valid YAML"),
        ("latent: {}\nlatent: {}\n", "stands twice"),
        (BASE + "encodr: {}\n", "encodr: unknown key; did you mean 'encoder"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "self.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_section_without_kind_is_of_the_default_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(BASE.replace("kind: grid, ", ""))
    assert load_config(path).decoder.kind == "grid"


def test_longer_cycle_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_missing_file_lists_shipped_names() -> None:
    with pytest.raises(ConfigError, match="burgers1d"):
        load_config("nothing_of_that_name")


def test_overrides_are_yaml_values(base: Path) -> None:
    words = ["latent.tokens=32", "operator.mixer=conv", "stages.operator.optimizer.lr=1e-4", "task.frames=null"]
    config = load_config(base, parse_overrides(words))
    assert (config.latent.tokens, config.operator.mixer) == (32, "conv")
    assert config.stages.operator.optimizer.lr == 1e-4


@pytest.mark.parametrize("word", ["latent.tokens", "=3", "latent.tokens=[1"])
def test_bad_overrides(word: str) -> None:
    with pytest.raises(ConfigError):
        parse_overrides([word])

"""Configs of the earlier system: nothing of them is lost in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ups.cli import app
from ups.cli.terminal import run_app
from ups.config import diff, load_config
from ups.config_import import import_config
from ups.core.errors import ConfigError

GOLDEN = Path(__file__).parent / "data_files" / "golden_v2_old_format.yaml"


def leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def changed(tmp_path: Path, **values: Any) -> Path:
    """The golden file with other values; a dotted path has `__` for its dots."""
    data = yaml.safe_load(GOLDEN.read_text())
    for name, value in values.items():
        *parents, last = name.split("__")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_old_golden_is_the_shipped_one() -> None:
    assert diff(load_config("burgers1d_golden_v2"), import_config(GOLDEN).config) == {}


def test_the_golden_has_the_values_of_the_issue() -> None:
    flat = import_config(GOLDEN).config.flat()
    expected = {
        "latent.tokens": 32,
        "latent.dim": 16,
        "operator.kind": "pdet_unet",
        "operator.hidden_dim": 96,
        "operator.depths": [1, 1, 1],
        "operator.num_heads": 6,
        "operator.group_size": 12,
        "stages.operator.batch_size": 12,
        "stages.operator.accumulation_steps": 4,
        "stages.operator.grad_clip": 0.5,
        "stages.operator.epochs": 25,
        "stages.diff_residual.epochs": 3,
        "stages.consistency_distill.epochs": 8,
        "stages.steady_prior.epochs": 0,
        "stages.operator.optimizer.lr": 1e-3,
        "stages.diff_residual.optimizer.lr": 2e-5,
        "stages.consistency_distill.optimizer.lr": 3e-5,
        "stages.operator.optimizer.weight_decay": 0.01,
        "stages.diff_residual.optimizer.weight_decay": 0.05,
        "stages.consistency_distill.optimizer.weight_decay": 0.01,
        "stages.diff_residual.tau_sampling": "stratified",
        "runtime.seed": 42,
        "runtime.precision": "bf16",
        "runtime.compile": "auto",
        "runtime.deterministic": True,
        "logging.log_every_n_steps": 10,
        "logging.checkpoint_every_n_epochs": 5,
        "stages.operator.losses.inverse_encoding.warmup": 15,
        "stages.operator.losses.inverse_decoding.max_weight": 0.05,
        "ttc.enabled": False,
        "ttc.steps": 1,
        "ttc.candidates": 16,
        "ttc.beam_width": 5,
        "ttc.horizon": 1,
        "ttc.max_evaluations": 200,
    }
    assert {path: flat[path] for path in expected} == expected


def test_every_old_key_is_mapped_derived_or_dropped_and_said() -> None:
    imported = import_config(GOLDEN)
    said = {old for old, *_ in (*imported.mapped, *imported.derived, *imported.dropped)}
    assert set(leaves(yaml.safe_load(GOLDEN.read_text()))) <= said
    flat = imported.config.flat()
    assert all(flat[path] == value for _, path, value in imported.mapped)
    lines = list(imported.lines())
    assert "mapped   training.grad_clip -> stages.diff_residual.grad_clip = 0.5" in lines
    assert "mapped   training.compile -> runtime.compile = auto" in lines
    assert "derived  operator.pdet.input_dim: latent.dim = 16" in lines
    assert "mapped   ttc.beam_width -> ttc.beam_width = 5" in lines
    assert not any(line.startswith("derived  ttc.") for line in lines)


def test_a_search_at_test_time_is_taken_over_without_its_reward(tmp_path: Path) -> None:
    imported = import_config(changed(tmp_path, ttc__enabled=True, ttc__steps=3))
    assert imported.config.ttc.enabled
    assert imported.config.ttc.steps == 3
    lines = list(imported.lines())
    fitted = "fitted on training trajectories; the old reward is not taken over"
    assert f"derived  ttc.reward.kind = adaptive: {fitted}" in lines
    assert any(line.startswith("derived  ttc.source = none: ") for line in lines)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"training__label_smoothing": 0.1, "losses": 3}, "unknown keys, nothing was imported: losses, training.label"),
        ({"ttc__noise_std": 0.1}, "unknown keys, nothing was imported: ttc.noise_std"),
        ({"ttc__candidates": 0}, "ttc.candidates: input should be greater than or equal to 1, got 0"),
        ({"operator__pdet__output_dim": 24}, "operator.pdet.output_dim: must be latent.dim, got 24 and 16"),
        ({"operator__pdet__num_heads": 7}, "num_heads"),
        ({"stages__operator__optimizer": "lion"}, "stages.operator.optimizer.name: input should be 'adamw'"),
        ({"latent": None}, "unknown keys, nothing was imported: latent"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path: Path, values: dict[str, Any], line: str) -> None:
    path = changed(tmp_path, **values)
    with pytest.raises(ConfigError) as error:
        import_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_other_values_arrive_and_the_horizon_follows_the_stride(tmp_path: Path) -> None:
    path = changed(tmp_path, operator__lambda_inv_enc=0.02, training__amp=False, training__time_stride=4)
    flat = import_config(path).config.flat()
    assert flat["stages.operator.losses.inverse_encoding.weight"] == 0.02
    assert flat["runtime.precision"] == "float32"
    base = load_config("burgers1d").task
    assert base.frames is not None
    assert (flat["task.frames"] - 1) * flat["task.time_stride"] == (base.frames - 1) * base.time_stride


def test_the_command_prints_a_config_that_loads_below_the_list(tmp_path: Path, capsys: Any) -> None:
    assert run_app(app, ["config", "import", str(GOLDEN)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# mapped   latent.dim -> latent.dim = 16\n")
    (tmp_path / "printed.yaml").write_text(printed)
    out = tmp_path / "new.yaml"
    assert run_app(app, ["config", "import", str(GOLDEN), "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(out)
    assert [f"# {line}" for line in told[:-1]] == [line for line in printed.splitlines() if line.startswith("# ")]
    golden = load_config("burgers1d_golden_v2")
    assert load_config(out) == load_config(tmp_path / "printed.yaml") == golden
    # an existing file is not written over
    assert run_app(app, ["config", "import", str(GOLDEN), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err

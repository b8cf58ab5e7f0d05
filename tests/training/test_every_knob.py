"""A config key that cannot change what is learned or predicted is a defect: every leaf of RunConfig is listed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ups.config import RunConfig
from ups.core.schema import known_paths
from ups.run import train_run

Values = dict[str, Any]
STAGE = "stages.operator."
LOSSES = STAGE + "losses."
POOLED = {"encoder.patch": 2}
HYBRID = {"operator.mixer": "hybrid", "operator.hidden_dim": 16, "operator.num_heads": 2}
POINTS = {"decoder.kind": "anypoint", "decoder.width": 16, "decoder.num_heads": 2}
DECODING = {LOSSES + "inverse_decoding.weight": 1.0}
ENCODING = {LOSSES + "inverse_encoding.weight": 1.0}
FNO = {"baseline.kind": "fno", "baseline.width": 8, "baseline.modes": 4, "baseline.depth": 2}

# path -> (value, what else must be set for the path to matter)
KNOBS: dict[str, tuple[Any, Values]] = {
    "symmetry": ("none", {}),
    "latent.tokens": (16, {}),
    "latent.dim": (4, {}),
    "encoder.patch": (2, {}),
    "encoder.width": (12, {}),
    "encoder.kernel": (5, {}),
    "encoder.blocks": (0, {}),
    "encoder.num_heads": (2, POOLED),
    "encoder.positions": ("fourier", {}),
    "operator.mixer": ("conv", {}),
    "operator.block": ("serial", {}),
    "operator.depth": (2, {}),
    "operator.hidden_dim": (12, {}),
    "operator.num_heads": (4, HYBRID),
    "operator.kernel": (3, HYBRID),
    "operator.modes": (2, {}),
    "operator.mlp_ratio": (1.0, {"operator.block": "serial"}),
    "decoder.kind": ("anypoint", {}),
    "decoder.width": (12, {}),
    "decoder.kernel": (5, {}),
    "decoder.blocks": (1, {}),
    "decoder.cell_width": (2, {}),
    "decoder.num_heads": (4, POINTS),
    "decoder.locality": ("global", POINTS),
    "decoder.window": (2, POINTS),
    "decoder.frequencies": (3, POINTS),
    "baseline": ({"kind": "fno", "width": 8}, {}),
    "baseline.width": (4, FNO),
    "baseline.modes": (2, FNO),
    "baseline.depth": (1, FNO),
    "baseline.position": (False, FNO),
    "inference.rollout": ("latent", {}),
    "inference.reencode_every": (2, {}),
    "runtime.seed": (7, {}),
    "runtime.precision": ("bf16", {}),
    STAGE + "epochs": (5, {}),
    STAGE + "windows_per_trajectory": (3, {}),
    STAGE + "batch_size": (4, {}),
    STAGE + "accumulation_steps": (2, {}),
    STAGE + "grad_clip": (0.01, {}),
    STAGE + "grad_clip_per_param": (True, {STAGE + "grad_clip": 0.01}),
    STAGE + "augment": (False, {}),
    STAGE + "optimizer.lr": (1e-2, {}),
    STAGE + "optimizer.weight_decay": (0.3, {}),
    STAGE + "optimizer.beta2": (0.9, {}),
    STAGE + "schedule.kind": ("constant", {}),
    STAGE + "schedule.warmup": (0.3, {}),
    STAGE + "schedule.final": (0.5, {}),
    STAGE + "ema.decay": (0.0, {}),
    STAGE + "guard.skip_norm": (1e-3, {STAGE + "guard.warn_norm": 1e-4}),
    LOSSES + "error": ("relative_mse", {}),
    LOSSES + "forward.weight": (3.0, {}),
    LOSSES + "rollout.weight": (3.0, {}),
    LOSSES + "rollout.horizon": (4, {}),
    LOSSES + "rollout.warmup": (0.0, {}),
    LOSSES + "rollout.mode": ("latent", {}),
    LOSSES + "rollout.every": (2, {}),
    LOSSES + "inverse_encoding.weight": (1.0, {}),
    LOSSES + "inverse_encoding.warmup": (0.3, ENCODING),
    LOSSES + "inverse_encoding.max_weight": (0.1, ENCODING),
    LOSSES + "inverse_encoding.ramp": ("cosine", {**ENCODING, LOSSES + "inverse_encoding.warmup": 0.3}),
    LOSSES + "inverse_encoding.every": (2, ENCODING),
    LOSSES + "inverse_decoding.weight": (1.0, {}),
    LOSSES + "inverse_decoding.warmup": (0.3, DECODING),
    LOSSES + "inverse_decoding.max_weight": (0.1, DECODING),
    LOSSES + "inverse_decoding.ramp": ("cosine", {**DECODING, LOSSES + "inverse_decoding.warmup": 0.3}),
    LOSSES + "inverse_decoding.every": (2, DECODING),
}
# limits that end a stage, the clock, what is measured, what is written, and names of the only choice there is
ELSEWHERE = {
    STAGE + "time_limit_seconds": "test_run.py",
    STAGE + "validations": "test_run.py",
    STAGE + "guard.warn_norm": "test_guard_and_curriculum.py",
    STAGE + "guard.explode_norm": "test_guard_and_curriculum.py",
    STAGE + "guard.max_skips": "test_guard_and_curriculum.py",
    STAGE + "optimizer.name": "one choice",
    "operator.kind": "one choice",
    "baseline.kind": "one choice",
    "runtime.device": "where, not what",
    "runtime.threads": "where, not what",
    "logging.log_every_n_steps": "what is written",
    "logging.checkpoint_every_n_epochs": "what is written",
    "provenance": "what is recorded",
}


def test_every_path_is_listed() -> None:
    paths = {path for path in known_paths(RunConfig) if not path.startswith("task.")}
    assert paths == set(KNOBS) | set(ELSEWHERE)


@pytest.fixture(scope="module")
def outcome(tiny: Values, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Scores of a run with these changes, each trained once."""
    base = RunConfig.parse(tiny).override({STAGE + "optimizer.lr": 4e-3, "decoder.cell_width": 3})
    found: dict[str, dict[str, float]] = {}

    def train(changes: Values) -> dict[str, float]:
        config = base.override(changes)
        folder: Path = tmp_path_factory.getbasetemp() / "knobs" / config.fingerprint()[:12]
        if folder.name not in found:
            found[folder.name] = train_run(config, folder, evaluate_on="none").milestones
        return found[folder.name]

    return train


@pytest.mark.parametrize("path", KNOBS)
def test_the_knob_changes_the_validation_score(outcome: Any, path: str) -> None:
    value, context = KNOBS[path]
    changed, plain = outcome({**context, path: value}), outcome(context)
    assert changed != plain

"""The models that are compared at equal wall time, and the run of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training import TUNING_SEED, headline, run_config, timed

from ups.config import RunConfig

_FIELD = {
    "inference.rollout": "reencode",
    "stages.operator.losses.inverse_encoding.weight": 0.0,
    "stages.operator.losses.inverse_decoding.weight": 0.0,
}
_FNO = {**_FIELD, "baseline.kind": "fno", "baseline.width": 32, "baseline.modes": 32, "baseline.depth": 4}
_UNET = {**_FIELD, "baseline.kind": "unet"}
_PLAIN = {"stages.operator.augment": False, "stages.operator.losses.rollout.weight": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ups": ("burgers1d", {}),
    "ups_latent": ("burgers1d_latent", {}),
    "ups_anypoint": ("burgers1d_anypoint", {}),
    "fno_frame": ("burgers1d", {**_FNO, "symmetry": "auto", "baseline.position": False}),
    "fno_frame_position": ("burgers1d", {**_FNO, "symmetry": "auto", "baseline.position": True}),
    "unet_frame": ("burgers1d", {**_UNET, "symmetry": "auto"}),
    "fno": ("burgers1d", {**_FNO, "symmetry": "none", "baseline.position": True}),
    "fno_plain": ("burgers1d", {**_FNO, "symmetry": "none", "baseline.position": True, **_PLAIN}),
}
"""shipped config and what is changed in it; the translation is part of the frame, so `fno_frame` sees no position"""

WORDS = {
    "ups": "UPS",
    "ups_latent": "UPS latent",
    "ups_anypoint": "UPS any point",
    "fno_frame": "FNO with frame",
    "fno_frame_position": "FNO with frame and position",
    "unet_frame": "U-Net with frame",
    "fno": "FNO without frame",
    "fno_plain": "FNO plain",
}


def config_of(model: str, file: Path, split: Mapping[str, int], *, rate: float, seed: int, seconds: float) -> RunConfig:
    """The run of one model on the benchmark's task, limited by time alone.

    Raises:
        UserError: the shipped config counts a warm-up in epochs, which a time limit makes meaningless.
    """
    base, changes = MODELS[model]
    # validation is paid for by the time limit: a tuning run has no use for a curve
    limit = timed(seconds, seed=seed, validations=2 if seed == TUNING_SEED else 8)
    return run_config(base, changes, headline(file, split), limit, {"stages.operator.optimizer.lr": rate})

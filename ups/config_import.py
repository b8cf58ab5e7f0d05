"""Configs of the earlier system: every key of theirs is mapped, derived, dropped with a reason, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups.config import RunConfig, dump_yaml, load_config, read_yaml
from ups.core.errors import ConfigError

_STAGES = ("operator", "diff_residual", "consistency_distill", "steady_prior")
_INVERSE = ("stages.operator.losses.inverse_encoding", "stages.operator.losses.inverse_decoding")

_MAPPED: dict[str, tuple[str, ...]] = {
    "latent.dim": ("latent.dim",),
    "latent.tokens": ("latent.tokens",),
    "operator.pdet.hidden_dim": ("operator.hidden_dim",),
    "operator.pdet.depths": ("operator.depths",),
    "operator.pdet.num_heads": ("operator.num_heads",),
    "operator.pdet.group_size": ("operator.group_size",),
    "operator.lambda_forward": ("stages.operator.losses.forward.weight",),
    "operator.lambda_inv_enc": (f"{_INVERSE[0]}.weight",),
    "operator.lambda_inv_dec": (f"{_INVERSE[1]}.weight",),
    "operator.lambda_rollout": ("stages.operator.losses.rollout.weight",),
    "operator.lambda_spectral": ("stages.operator.losses.spectral.weight",),
    "training.inverse_loss_warmup_epochs": tuple(f"{term}.warmup" for term in _INVERSE),
    "training.inverse_loss_max_weight": tuple(f"{term}.max_weight" for term in _INVERSE),
    "training.inverse_loss_frequency": tuple(f"{term}.every" for term in _INVERSE),
    # the old trainer had one of these for all stages
    "training.batch_size": tuple(f"stages.{stage}.batch_size" for stage in _STAGES),
    "training.accumulation_steps": tuple(f"stages.{stage}.accumulation_steps" for stage in _STAGES),
    "training.grad_clip": tuple(f"stages.{stage}.grad_clip" for stage in _STAGES),
    "training.grad_clip_per_param": tuple(f"stages.{stage}.grad_clip_per_param" for stage in _STAGES),
    "training.seed": ("runtime.seed",),
    "training.deterministic": ("runtime.deterministic",),
    "training.compile": ("runtime.compile",),
    "training.amp": ("runtime.precision",),
    "training.time_stride": ("task.time_stride",),
    "logging.log_every_n_steps": ("logging.log_every_n_steps",),
    "logging.checkpoint_every_n_epochs": ("logging.checkpoint_every_n_epochs",),
    "stages.diff_residual.tau_sampling": ("stages.diff_residual.tau_sampling",),
    **{
        f"ttc.{name}": (f"ttc.{name}",)
        for name in ("enabled", "steps", "candidates", "beam_width", "horizon", "max_evaluations")
    },
} | {
    f"stages.{stage}.{old}": (f"stages.{stage}.{new}",)
    for stage in _STAGES
    for old, new in (
        ("epochs", "epochs"),
        ("lr", "optimizer.lr"),
        ("optimizer", "optimizer.name"),
        ("weight_decay", "optimizer.weight_decay"),
        ("scheduler", "schedule.kind"),
    )
}
"""key of the old format -> the paths that take its value"""

_RENAMED: dict[str, Callable[[Any], Any]] = {
    "training.amp": lambda on: "bf16" if on else "float32",
    "training.compile": lambda on: "auto" if on else "off",
}
"""values that are called something else here"""

_DROPPED: dict[str, str] = {
    "experiment_name": "a run is named by its folder",
    "training.num_workers": "no loader processes: a task is one memory-mapped array",
    "logging.wandb.enabled": "nothing is sent anywhere unless logging.wandb.mode says so",
    "logging.wandb.project": "nothing is sent anywhere unless logging.wandb.mode says so",
    "logging.save_checkpoints": "`best` and `last` of each stage are always kept",
}

_OF_LATENT = ("operator.pdet.input_dim", "operator.pdet.output_dim")
"""said twice in the old format"""


@dataclass(frozen=True)
class Imported:
    """A config of the old format in the words of this system."""

    config: RunConfig
    mapped: tuple[tuple[str, str, Any], ...]
    """(old key, path, value)"""
    derived: tuple[tuple[str, str], ...]
    """(what, from which it follows); old keys and new paths"""
    dropped: tuple[tuple[str, str], ...]
    """(old key, reason)"""

    def lines(self) -> Iterator[str]:
        """What became of every old key."""
        for old, path, value in self.mapped:
            yield f"mapped   {old} -> {path} = {_shown(value)}"
        for what, reason in self.derived:
            yield f"derived  {what}: {reason}"
        for old, reason in self.dropped:
            yield f"dropped  {old}: {reason}"

    def to_yaml(self) -> str:
        """The complete config, below the list as comments."""
        return "".join(f"# {line}\n" for line in self.lines()) + dump_yaml(self.config)


def import_config(path: Path, base: str = "burgers1d") -> Imported:
    """Read a config of the old format.

    Args:
        base: a config that says what the old format does not: data, encoder, decoder, inference.

    Raises:
        ConfigError: unreadable, keys that the old format does not have, values that have no counterpart.
    """
    given = load_config(base)
    old = dict(_leaves(read_yaml(path)))
    try:
        return _imported(old, given, base)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _imported(old: Mapping[str, Any], base: RunConfig, base_name: str) -> Imported:
    unknown = [key for key in old if key not in _MAPPED and key not in _DROPPED and key not in _OF_LATENT]
    if unknown:
        raise ConfigError(f"unknown keys, nothing was imported: {', '.join(unknown)}")
    mapped = tuple(
        (key, path, _RENAMED.get(key, _same)(value)) for key, value in old.items() for path in _MAPPED.get(key, ())
    )
    values = {path: value for _, path, value in mapped}
    derived = [(key, _check_latent(key, old)) for key in _OF_LATENT if key in old]
    operator = {path.removeprefix("operator."): values.pop(path) for path in [*values] if path.startswith("operator.")}
    data = base.model_dump(mode="json")
    if operator:
        # an old operator replaces the base's: what both kinds have would otherwise be a mixture of the two
        data["operator"] = {"kind": "pdet_unet", "mixer": "attention", "block": "serial", **operator}
        derived.append(("operator.kind = pdet_unet", "the old operator was a U-Net over tokens"))
        derived.append(("operator.mixer = attention", "the only one that it had"))
        derived.append(("operator.block = serial", "its blocks were attention, then MLP"))
    if values.get("runtime.compile") == "auto":
        derived.append(("runtime.compile = auto", "on a GPU alone; on a CPU compiling costs more than a run gains"))
    if values.get("ttc.enabled"):
        # the old file says nothing of either: what it did does not follow from the same numbers
        reward = f"ttc.reward.kind = {base.ttc.reward.kind}"
        derived.append((reward, "fitted on training trajectories; the old reward is not taken over"))
        derived.append((f"ttc.source = {base.ttc.source}", f"candidates are drawn as in {base_name}, not as they were"))
    stride = values.get("task.time_stride")
    if isinstance(stride, int) and stride > 0 and base.task.frames is not None:
        values["task.frames"] = (base.task.frames - 1) * base.task.time_stride // stride + 1
        covered = f"{base.task.frames} frames of stride {base.task.time_stride}"
        derived.append((f"task.frames = {values['task.frames']}", f"the physical time of {base_name}: {covered}"))
    derived.append(("everything else", f"as in {base_name} (data, encoder, decoder, inference) or by default"))
    config = RunConfig.parse(data).override(values)
    dropped = tuple((key, _DROPPED[key]) for key in old if key in _DROPPED)
    return Imported(config, mapped, tuple(derived), dropped)


def _check_latent(key: str, old: Mapping[str, Any]) -> str:
    width = old.get("latent.dim")
    if old[key] != width:
        raise ConfigError(f"{key}: must be latent.dim, got {old[key]} and {width}: the operator has no second width")
    return f"latent.dim = {width}"


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _same(value: Any) -> Any:
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

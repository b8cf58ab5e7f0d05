"""What each stage of a config is called in the store: the fingerprint of exactly what the stage is given.

A false hit would be the dangerous bug: what is not part of a key must not reach the stage. Computed from the config
and the fingerprint of the data alone, so that a search knows which stages two configs share before it trains either.
"""

from __future__ import annotations

from typing import Any, Protocol

from ups.core.runtime import RuntimeConfig
from ups.core.schema import Schema, fingerprint
from ups.data.task import TaskConfig
from ups.inference.surrogate import InferenceConfig
from ups.training.stage_config import SAME_SHARE

VERSIONS = {"operator": 2, "diff_residual": 1, "consistency_distill": 1, "steady_prior": 1}
"""raised by hand when a stage learns something else from the same config"""
_MODEL = ("symmetry", "latent", "encoder", "operator", "decoder", "baseline")


class _Stages(Protocol):
    def later(self) -> list[str]: ...


class _Run(Protocol):
    """The parts of `ups.config.RunConfig` that are read here; that module imports this one."""

    @property
    def stages(self) -> _Stages: ...
    @property
    def task(self) -> TaskConfig: ...
    @property
    def runtime(self) -> RuntimeConfig: ...
    @property
    def corrector(self) -> Schema: ...
    @property
    def inference(self) -> InferenceConfig: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def stage_keys(config: _Run, data: str) -> dict[str, str]:
    """Stage -> key, for every stage that a run of the config trains, in its order.

    Args:
        config: of the run.
        data: fingerprint of the task's data and split, `Task.fingerprint`.
    """
    keys: dict[str, str] = {}
    for name in ("operator", *config.stages.later()):
        keys[name] = _key(name, config, data, keys)
    return keys


def key_until(config: _Run, data: str, name: str, share: float) -> str:
    """What the state of a stage at a share of it is called in the store.

    The same for all runs that do the same up to there: which settings change later does not enter.

    Args:
        config: of a run that trains the stage.
        data: as in `stage_keys`.
    """
    keys = stage_keys(config, data)
    return fingerprint(["until", f"{share:g}", _key(name, config, data, keys, until=share)])


def _key(name: str, config: _Run, data: str, above: dict[str, str], until: float = 1.0) -> str:
    inference = config.inference
    stage = getattr(config.stages, name).model_dump(mode="json")
    # an empty list is left out: a stage without changes is called what it would be called if there was no such setting
    changes = [change for change in stage.pop("changes") if change["share"] < until - SAME_SHARE]
    common = [name, VERSIONS[name], stage | ({"changes": changes} if changes else {})]
    machine = [config.runtime.seed, config.runtime.precision]
    if name == "operator":
        whole = config.model_dump(mode="json")
        model = {part: whole[part] for part in whole if part in _MODEL}
        rollout = [inference.rollout, inference.reencode_every]
        # whether reflections are exact depends on where the kept cells lie
        return fingerprint([*common, *machine, model, rollout, data, config.task.space_stride])
    sampling = [inference.sampler_steps, inference.solver, inference.temperature]
    if name == "consistency_distill":
        sampling.append(inference.student_steps)
    upstream = above["diff_residual" if name == "consistency_distill" else "operator"]
    return fingerprint([*common, *machine, config.corrector.model_dump(mode="json"), sampling, upstream])

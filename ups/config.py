"""RunConfig: the tree of component configs that is one run, with YAML in and out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from ups.core.errors import ConfigError
from ups.core.physics import EQUATIONS
from ups.core.runtime import RuntimeConfig
from ups.core.schema import Schema
from ups.data.task import TaskConfig
from ups.inference.build import ModelConfig
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Correction
from ups.training.stage_config import LoggingConfig
from ups.training.stage_order import DEPLOYED_AS, SEARCH, StagesConfig


class RunConfig(ModelConfig):
    """One run, frozen and complete. The paths of a search space are the paths of this tree."""

    task: TaskConfig
    stages: StagesConfig = Field(default_factory=StagesConfig)
    runtime: RuntimeConfig = RuntimeConfig()
    logging: LoggingConfig = LoggingConfig()
    provenance: dict[str, Any] | None = None
    """how a golden config was found and confirmed; does not change the run"""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        rollout = self.stages.operator.losses.rollout
        if self.task.frames is not None and rollout.horizon >= self.task.frames:
            raise ValueError(
                f"stages.operator.losses.rollout.horizon must be below task.frames, "
                f"got {rollout.horizon} and {self.task.frames}"
            )
        if self.baseline is not None:
            if self.stages.operator.losses.needs_latent():
                raise ValueError("a baseline has no latent: its inverse loss weights must be 0")
            if self.inference.rollout == "latent":
                raise ValueError("a baseline has no latent: inference.rollout must be reencode")
        self.stages.check(steady=EQUATIONS[self.task.equation].steady, has_latent=self.baseline is None)
        prior, unseen = self.stages.steady_prior, self.stages.operator.losses.inverse_encoding.weight == 0
        if prior.epochs and prior.target == "encoded" and unseen:
            raise ValueError(
                "stages.steady_prior.target encoded needs an encoder of solutions, which "
                "stages.operator.losses.inverse_encoding alone trains: set its weight above 0"
            )
        inference = self.inference
        if self.stages.consistency_distill.epochs and inference.student_steps > inference.sampler_steps:
            raise ValueError(
                "inference.student_steps must be at most inference.sampler_steps, whose states it learns from, "
                f"got {inference.student_steps} and {inference.sampler_steps}"
            )
        trained = [DEPLOYED_AS[name] for name in self.stages.later()]
        if self.inference.corrector not in ("auto", "none", *trained):
            raise ValueError(f"inference.corrector: no stage trains {self.inference.corrector}, set its epochs above 0")
        self._check_search(trained)
        return self

    def _check_search(self, trained: list[Correction]) -> None:
        """Raises ValueError for a search at test time that this model or its stages cannot have."""
        if not self.ttc.enabled:
            return
        if self.baseline is not None:
            raise ValueError("a baseline has no latent to search in: ttc.enabled must be false")
        if EQUATIONS[self.task.equation].steady:
            raise ValueError(f"{self.task.equation} is steady and has no steps to search: ttc.enabled must be false")
        if self.ttc.source not in ("none", *trained):
            raise ValueError(f"ttc.source: no stage trains {self.ttc.source}, set its epochs above 0")


def load_config(source: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A config file, or the bare name of a shipped one, with `include`s resolved and `overrides` applied.

    Raises:
        ConfigError: missing or unreadable file, a cycle of includes, an unknown key, a refused value.
    """
    path = find_shipped(str(source), "configs")
    data = read_yaml(path)
    try:
        config = RunConfig.parse(data)
        return config.override(overrides) if overrides else config
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """What a run of the config goes through, in its order: the stages that it trains, those with no epochs being off,
    and the search at test time."""
    trained = tuple(name for name, stage in config.stages if stage.epochs > 0)
    return (*trained, SEARCH) if config.ttc.enabled else trained


def load_search_config(source: str | Path) -> SearchConfig:
    """The search at test time of a YAML file, or of the bare name of a shipped one: its keys, or a single key `ttc`
    with them below.

    Raises:
        ConfigError: missing or unreadable file, an unknown key, a refused value.
    """
    path = find_shipped(str(source), "configs/ttc")
    data = read_yaml(path)
    if set(data) == {"ttc"} and isinstance(data["ttc"], dict):
        data = data["ttc"]
    if data.get("enabled") is False:
        raise ConfigError(f"{path}: enabled is false, so there is nothing to search with; leave that key out")
    try:
        return SearchConfig.parse(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


_OF_CLUSTERS = "cluster"
"""folder beside the configs whose files start machines"""


def find_shipped(name: str, folder: str) -> Path:
    """A path as given if it exists; else the shipped file of that bare name in `folder` (a checkout's comes first).

    Raises:
        ConfigError: neither exists, or it is a folder; the message lists what is shipped.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = resources.files("ups") / "shipped" / folder
    places = [Path(folder), Path(__file__).parent.parent / folder, Path(str(packaged))]
    shipped = [file for place in places if place.is_dir() for file in sorted(place.rglob("*.yaml"))]
    for file in shipped:
        if name in (file.stem, file.name):
            return file
    if path.is_dir():
        raise ConfigError(f"{name}: is a folder, expected a YAML file")
    names = [file.stem for file in dict.fromkeys(shipped) if file.parent.name != _OF_CLUSTERS]
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    there = ", ".join(dict.fromkeys(names)) or "none"
    raise ConfigError(f"{name}: no such file, and no shipped one of that name{hint} (there are: {there})")


def read_yaml(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a YAML file, merged over the file that its `include` names: relative to it, or a shipped one.

    Raises:
        ConfigError: unreadable, not a mapping, or a cycle of includes.
    """
    path = path.resolve()
    if path in including:
        chain = " -> ".join(file.name for file in (*including, path))
        raise ConfigError(f"include: cycle {chain}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    parent = data.pop("include", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: include: expected the name of one YAML file, got {parent!r}")
    beside = path.parent / parent
    if not beside.is_file():
        try:
            beside = find_shipped(parent, "configs")
        except ConfigError as error:
            raise ConfigError(f"{path}: include: {error}") from None
    return _merge(read_yaml(beside, (*including, path)), data)


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """`path=value` words as a mapping; values are YAML.

    Raises:
        ConfigError: a word without `=`, a value that is not YAML, or a path that is given two of them.
    """
    values: dict[str, Any] = {}
    for word in assignments:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"{word}: expected path=value, such as latent.tokens=32")
        if path in values:
            raise ConfigError(f"{path}: given twice, as {values[path]!r} and as {text}; leave one out")
        try:
            values[path] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            raise ConfigError(f"{path}: not a YAML value, got {text!r}") from None
    return values


def dump_yaml(config: Schema) -> str:
    """Complete YAML that loads to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def diff(a: Schema, b: Schema) -> dict[str, tuple[Any, Any]]:
    """Leaf paths whose values differ, with both values; a key that only one side has reads as `absent`."""
    left, right = a.flat(), b.flat()
    paths = [*left, *(path for path in right if path not in left)]
    pairs = {path: (left.get(path, "absent"), right.get(path, "absent")) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.2) and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
for _first in "-+0123456789.":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, ("tag:yaml.org,2002:float", _FLOAT))


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`change` over `base`; a mapping that chooses another `kind` replaces the base's mapping."""
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, dict):
            other_kind = "kind" in value and value["kind"] != below.get("kind")
            merged[key] = dict(value) if other_kind else _merge(below, value)
        else:
            merged[key] = value
    return merged

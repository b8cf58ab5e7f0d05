"""From a SPACE file to a plan that is known to work: everything that can be refused is refused before Ray starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tune.domain import Domain, Value, holds
from tune.objectives import is_eligible
from tune.pbt import check_pbt
from tune.space import MEASURED_AT_THE_END, SearchConfig, Space, candidates
from tune.storage_url import is_database
from tune.study import Plan, load_study
from ups.config import RunConfig, diff, find_shipped, load_config, read_yaml
from ups.core.errors import ConfigError
from ups.core.schema import unknown_key
from ups.training.stage_order import SEARCH

_FIXED = ("task", "runtime.seed")
_FIXED_EVERYWHERE = ("validations",)
_WITHOUT_EFFECT = (
    "logging",
    "provenance",
    "runtime.device",
    "runtime.threads",
    "runtime.compile",
    "runtime.deterministic",
)
BEST_OF_A_STUDY = 3
"""trials of an earlier study that `start_from` takes from it"""
RANDOM_DRAWS = 64
"""combinations tried where the base's values alone do not tell"""


def load_plan_from_space(
    source: str,
    overrides: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    base_file: Path | None = None,
) -> Plan:
    """Read and check a SPACE file.

    Args:
        source: a path, or the bare name of a shipped space.
        overrides: config path -> value; it holds for the base and for `start_from`, and leaves the space.
        changes: settings of the search itself by path, such as `strategy.trials`.
        base_file: the config of a finished run, instead of the space's base. Its stages are found and report no
            milestones; names that hang on something the run does not have leave the space.

    Raises:
        ConfigError: one line with the path, the value and the rule.
    """
    path = find_shipped(source, "search_spaces")
    try:
        data = read_yaml(path)
        if base_file is not None:
            data["base"] = str(base_file)
        elif data.get("base") is None:
            raise ConfigError("base: required key is missing; name a config there, or give a finished run with --run")
        config = SearchConfig.parse(data)
        says_trials = "trials" in config.strategy.model_fields_set or "strategy.trials" in (changes or {})
        if changes:
            config = config.override(changes)
        if base_file is not None:
            config = config.override({"strategy.milestones": {}})
        base = load_config(_find(config.base, path), overrides)
        config = _without(config, base, overrides or {}, on_run=base_file is not None)
        check_space(config, base)
        starts = [start for name in config.start_from for start in _starts(name, path, base, overrides or {})]
        config = config.override({"start_from": [origin for origin, _, _ in starts]})
        start_from = tuple(start for _, start, _ in starts)
        if config.strategy.sampler == "grid":
            config = _sized(config, (base, *start_from), says_trials)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return Plan(config, base, start_from, tuple(origin for origin, _, is_golden in starts if is_golden))


def check_space(config: SearchConfig, base: RunConfig) -> None:
    """Refuse a space that cannot be searched.

    Raises:
        ConfigError: a path that does not exist or touches the task, a domain with an end that no config takes, a
            name that is the prefix of another, a `when` on an unknown name or in a circle, a milestone at which
            no validation falls, a knob of a stage or of a search at test time that no trial has, an interval in a
            grid, an objective that the scheduler cannot judge by.
    """
    space = Space(config.space, base)
    for name in space.domains:
        _check_name(name, space)
    for name in space.domains:
        _check_when(name, space)
        _check_stage_is_on(name, space)
    if config.strategy.sampler == "grid":
        _check_grid(space)
    _check_objectives(config)
    _check_together(config)
    if config.strategy.scheduler == "pbt":
        check_pbt(config, space)
    for stage, shares in config.strategy.milestones.items():
        _check_milestones(stage, shares, space)
    for name, domain in space.domains.items():
        if name not in space.switches:
            _check_ends(name, domain, space)


def _check_together(config: SearchConfig) -> None:
    """Refuse settings of the search that do not go together."""
    strategy = config.strategy
    if strategy.sampler == "cmaes" and len(config.objectives) > 1:
        raise ConfigError("strategy.sampler: cmaes searches one objective; tpe and gp search several")
    if strategy.batch is not None and is_database(config.resources.study_storage):
        raise ConfigError(
            "strategy.batch: several drivers on one study have no common order; leave resources.study_storage out "
            "for a deterministic search"
        )


def _check_name(name: str, space: Space) -> None:
    domain = space.domains[name]
    for other in space.domains:
        if other.startswith(f"{name}."):
            raise ConfigError(f"space.{name}: a name may not be the prefix of another, and there is {other}")
    if name in space.switches:
        if not any(name in other.when for other in space.domains.values()):
            raise ConfigError(f"space.{unknown_key(name, space.known)} (or a switch, if a `when` refers to it)")
        if domain.choice is None:
            raise ConfigError(f"space.{name}: a switch of the space is a choice, such as {{choice: [false, true]}}")
        return
    if name not in space.known:
        raise ConfigError(f"space.{unknown_key(name, space.known)}")
    if _is_below(name, _FIXED) or name.rsplit(".", 1)[-1] in _FIXED_EVERYWHERE:
        raise ConfigError(
            f"space.{name}: a search may not change the task (data, strides, splits, horizon, metric, seeds): "
            "scores would not be comparable"
        )
    if _is_below(name, _WITHOUT_EFFECT):
        raise ConfigError(f"space.{name}: does not change what is learned, so there is nothing to search")


def _check_when(name: str, space: Space, above: tuple[str, ...] = ()) -> None:
    if name in above:
        circle = " -> ".join((*above[above.index(name) :], name))
        raise ConfigError(f"space.{name}.when: conditions go round in a circle: {circle}")
    for other, condition in space.domains[name].when.items():
        if other in space.domains:
            _check_when(other, space, (*above, name))
            ends = space.domains[other].ends
            if not candidates(space.domains[other], condition):
                raise ConfigError(f"space.{name}.when.{other}: {condition!r} never holds, ends are {list(ends)}")
        elif other not in space.known:
            names = [*space.domains, *space.known]
            near = difflib.get_close_matches(other, names, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"space.{name}.when.{other}: neither a name of the space nor a config path{hint}")
        elif not holds(condition, space.base_values.get(other)):
            value = space.base_values.get(other)
            raise ConfigError(f"space.{name}.when.{other}: {condition!r} never holds, the base has {value!r}")


def _check_stage_is_on(name: str, space: Space) -> None:
    parts = name.split(".")
    if parts[0] == "ttc" and "ttc.enabled" not in space.domains and not space.base_values["ttc.enabled"]:
        raise ConfigError(
            f"space.{name}: has no effect, there is no search at test time: ttc.enabled is false in the base and not "
            "in the space"
        )
    if parts[0] != "stages" or len(parts) < 3:
        return
    epochs = f"stages.{parts[1]}.epochs"
    if epochs not in space.domains and space.base_values.get(epochs) == 0:
        raise ConfigError(
            f"space.{name}: has no effect, the stage is off: {epochs} is 0 in the base and not in the space"
        )


def _check_objectives(config: SearchConfig) -> None:
    late = [each.metric for each in config.objectives if each.metric in MEASURED_AT_THE_END]
    if late and config.strategy.scheduler != "none":
        raise ConfigError(
            f"strategy.scheduler: {config.strategy.scheduler} judges trials at milestones, and {late[0]} is an "
            "objective that is measured at the end of a run; use scheduler: none"
        )


def _check_grid(space: Space) -> None:
    for name, domain in space.domains.items():
        if domain.options is None:
            raise ConfigError(
                f"space.{name}: a grid has no intervals; list the values as {{choice: [...]}}, or use another sampler"
            )


def _sized(config: SearchConfig, given: Sequence[RunConfig], says_trials: bool) -> SearchConfig:
    """The grid with as many trials as there are combinations, unless it says fewer.

    Raises:
        ConfigError: more trials are asked for than there are combinations.
    """
    size = len(given) + len(Space(config.space, given[0]).combinations_besides(given))
    if not says_trials:
        return config.override({"strategy.trials": size})
    if config.strategy.trials > size:
        raise ConfigError(
            f"strategy.trials: at most the {size} of the grid (the base and start_from included), "
            f"got {config.strategy.trials}; leave it out to run all"
        )
    return config


def _check_milestones(stage: str, shares: tuple[float, ...], space: Space) -> None:
    # the search at test time is scored once, at its end
    validations = 1 if stage == SEARCH else space.base_values.get(f"stages.{stage}.validations")
    if validations is None:
        stages = sorted({path.split(".")[1] for path in space.base_values if path.startswith("stages.")})
        there = ", ".join([*stages, SEARCH])
        raise ConfigError(f"strategy.milestones.{stage}: no such stage in the base (there are: {there})")
    for share in shares:
        if abs(share * validations - round(share * validations)) > 1e-9:
            source = "it is scored once" if stage == SEARCH else f"stages.{stage}.validations of the base"
            raise ConfigError(
                f"strategy.milestones.{stage}: must be multiples of 1/{validations} ({source}), got {share:g}"
            )


def _check_ends(name: str, domain: Domain, space: Space) -> None:
    for end in domain.ends:
        context = space.context(name)
        try:
            space.config_of({**context, name: end})
        except ConfigError as error:
            if not _goes_with_something(name, end, space):
                raise ConfigError(f"space.{name}: {end!r} makes no valid config: {error}") from None


def _goes_with_something(name: str, end: Value, space: Space) -> bool:
    """Whether some combination with `end` is valid: the base's other values need not be the right ones for it."""
    random = np.random.default_rng(0)
    for _ in range(RANDOM_DRAWS):
        params = space.draw(lambda other, domain: end if other == name else random_value(domain, random))
        try:
            space.config_of(params)
        except ConfigError:
            continue
        if name in params:
            return True
    return False


def random_value(domain: Domain, random: np.random.Generator) -> Value:
    """A value drawn evenly from a domain, on a log scale where it has one."""
    if domain.choice is not None:
        return domain.choice[int(random.integers(len(domain.choice)))]
    low, high = domain.bounds
    if domain.log:
        value = float(np.exp(random.uniform(np.log(low), np.log(high))))
        value = min(max(value, low), high)
        return round(value) if domain.integers else value
    return int(random.integers(int(low), int(high) + 1)) if domain.integers else float(random.uniform(low, high))


def _without(config: SearchConfig, base: RunConfig, overrides: Mapping[str, Any], *, on_run: bool) -> SearchConfig:
    """The search without the paths that were given a value, nor those that this value, or the run that is searched
    on, switches off for good."""
    domains = {name: domain for name, domain in config.space.items() if not _is_below(name, tuple(overrides))}
    values = base.flat()
    while True:
        dead = [
            name
            for name, domain in domains.items()
            for other, condition in domain.when.items()
            if other not in domains
            and (other in config.space or (on_run and other in values))
            and not holds(condition, values.get(other))
        ]
        if not dead:
            break
        domains = {name: domain for name, domain in domains.items() if name not in dead}
    if not domains:
        raise ConfigError("space: nothing is left to search, every path was given a value")
    left = {name: domain.model_dump(mode="json") for name, domain in domains.items()}
    return SearchConfig.parse({**config.model_dump(mode="json"), "space": left})


def _starts(
    name: str, space_file: Path, base: RunConfig, overrides: Mapping[str, Any]
) -> Iterator[tuple[str, RunConfig, bool]]:
    """(origin, config, whether it is a golden) that an entry of `start_from` stands for: a config, or the best trials
    of an earlier study."""
    folders = [folder for folder in (Path(name), space_file.parent / name) if (folder / "study.yaml").is_file()]
    if not folders:
        start = load_config(_find(name, space_file), overrides)
        yield name, _given(name, start, base), start.provenance is not None
        return
    study = load_study(folders[0])
    eligible = [record for record in study.trials if is_eligible(record, study.config)]
    if not eligible:
        raise ConfigError(f"start_from: {name} has no trial to start from, none ran to its end")
    for record in sorted(eligible, key=lambda record: (record.score, record.number))[:BEST_OF_A_STUDY]:
        yield f"{name}#{record.number}", _given(name, study.config_of(record).override(overrides), base), False


def _given(name: str, config: RunConfig, base: RunConfig) -> RunConfig:
    """A config of `start_from` in the words of this search: its own model and training, the base's task and machine."""
    changed = diff(base, config)
    for path, (ours, theirs) in changed.items():
        if _is_below(path, _FIXED[:1]) or path.rsplit(".", 1)[-1] in _FIXED_EVERYWHERE:
            raise ConfigError(f"start_from: {name} has another task: {path} is {theirs!r}, the base has {ours!r}")
    flat = config.flat()
    machine = ("runtime", "logging", "provenance")
    return base.override({path: flat[path] for path in changed if path in flat and not _is_below(path, machine)})


def _find(name: str, space_file: Path) -> str:
    """A config named in a SPACE file: from the working directory, beside the file, or shipped."""
    if not Path(name).is_file():
        for folder in (space_file.parent, space_file.parent.parent):
            if (folder / name).is_file():
                return str(folder / name)
        if Path(name).suffix == ".yaml":
            return Path(name).stem
    return name


def _is_below(path: str, tops: tuple[str, ...]) -> bool:
    return any(path == top or path.startswith(f"{top}.") for top in tops)

"""What a search may vary: the SPACE file as a frozen value, and its domains over the paths of a base config."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tune import storage_url
from tune.domain import Domain, Value, comparison_operand, holds, same
from tune.sizes import parse_size
from ups.core import store_uri
from ups.core.errors import UserError
from ups.core.schema import Schema, known_paths

Suggest = Callable[[str, Domain], Value]
"""gives the value of one name, from its domain: a sampler, a random generator, a person"""

Metric = Literal["rollout_nrmse", "inference_ms", "parameters", "peak_memory_gib"]
"""validation error in physical units, milliseconds of one step of one trajectory, number of weights, memory of the
training"""
MEASURED_AT_THE_END: tuple[Metric, ...] = ("inference_ms", "peak_memory_gib")
"""known when a run is over, and at no milestone before"""

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class Objective(Schema):
    metric: Metric = "rollout_nrmse"
    direction: Literal["minimize"] = "minimize"


class Limit(Schema):
    """What a metric may be at most, in the metric's own unit."""

    max: float = Field(gt=0)


class Strategy(Schema):
    """Who proposes trials, and who stops them."""

    sampler: Literal["stage_tree", "tpe", "gp", "cmaes", "random", "grid"] = "stage_tree"
    """stage_tree: branches below finished stages, see `tune.stage_tree`; tpe with several objectives
    grid: every combination of the choices once, in the order of the space; for ablations"""
    scheduler: Literal["milestone_asha", "pbt", "none"] = "milestone_asha"
    """pbt: settings of the optimizer change while models train, see `tune.pbt`
    none: every trial runs to its end"""
    trials: int = Field(20, ge=1)
    """in total, over all resumes, the base and `start_from` included; a grid that does not say it has as many as
    there are combinations"""
    keep: float = Field(0.33, gt=0, le=1)
    """share of the arrivals at a milestone that go on"""
    population: int = Field(8, ge=4)
    """of pbt: places for trials of the sampler, besides the base and `start_from`; their copies are trials, too"""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """of pbt: at a milestone the worst share of the arrivals is replaced by copies out of the best share"""
    milestones: dict[str, tuple[float, ...]] = Field(
        default_factory=lambda: dict[str, tuple[float, ...]](operator=(0.25, 0.5, 1.0))
    )
    """stage -> shares of it at which trials are compared, increasing"""
    seed: int = Field(0, ge=0, lt=2**31)
    startup_trials: int = Field(10, ge=1)
    """random proposals before the sampler learns"""
    batch: int | None = Field(None, ge=1)
    """deterministic mode: so many trials are proposed at a time and nothing is learned before all of them ended, so
    that the same seed gives the same search whatever ends first"""
    base_seeds: int = Field(1, ge=1)
    """the base is trained under so many seeds first: their spread is the noise floor, below which nothing is an
    improvement"""

    @field_validator("milestones")
    @classmethod
    def _increasing(cls, milestones: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for stage, shares in milestones.items():
            if not shares or any(not 0 < share <= 1 for share in shares):
                raise ValueError(f"shares of {stage} must lie in (0, 1], got {list(shares)}")
            if list(shares) != sorted(set(shares)):
                raise ValueError(f"shares of {stage} must increase, got {list(shares)}")
        return milestones


class Resources(Schema):
    cpus_per_worker: int = Field(1, ge=1)
    workers_per_trial: int = Field(1, ge=1)
    """processes that train one trial together, each on its part of every batch; see `tune.distributed`"""
    gpus_per_worker: float | Literal["auto"] = "auto"
    """whole ones, or a share of one, such as 0.25; auto is one where there are any"""
    memory_gib_per_worker: float | None = Field(None, gt=0)
    """of the node's memory, for placement: a worker is given a node that has it left; null does not count memory"""
    concurrency: int | Literal["auto"] = "auto"
    """trials at a time; auto is what the machine, or the cluster as it is at the moment, holds"""
    store: str | None = None
    """folder, or URI such as s3://bucket/path, of finished stages, which several studies may share; null is
    STUDY/store"""
    study_storage: str | None = None
    """path of an Optuna journal, or postgresql:// where several drivers search one study; null is STUDY/journal.log"""
    study_name: str | None = Field(None, min_length=1, max_length=200)
    """of the study in a database; null is the name of the STUDY folder"""
    disk: str = "100GB"
    """such as 500MB or 2TB; what a store that is a folder, and the checkpoints of trials that have ended, may each
    take while the search runs: what nobody needs goes, the least recently used first"""

    @property
    def disk_bytes(self) -> int:
        return parse_size(self.disk)

    @field_validator("disk", mode="before")
    @classmethod
    def _is_a_size(cls, size: Any) -> str:
        try:
            parse_size(str(size))
        except UserError as error:
            raise ValueError(str(error)) from None
        return str(size)

    @property
    def cpus_per_trial(self) -> int:
        return self.workers_per_trial * self.cpus_per_worker

    @field_validator("store")
    @classmethod
    def _can_be_a_store(cls, place: str | None) -> str | None:
        return None if place is None else store_uri.check(place)

    @field_validator("store", mode="before")
    @classmethod
    def _without_credentials(cls, place: Any) -> Any:
        # below the other one, as for `study_storage`
        return store_uri.wash(place) if isinstance(place, str) else place

    @field_validator("study_storage")
    @classmethod
    def _can_be_opened(cls, place: str | None) -> str | None:
        return None if place is None else storage_url.check(place)

    @field_validator("study_storage", mode="before")
    @classmethod
    def _without_password(cls, place: Any) -> Any:
        # below the other one, so that it is called first: an error shows what the validator that raised it was given
        return storage_url.wash(place) if isinstance(place, str) else place

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_or_shared(cls, gpus: float | str) -> float | str:
        if not isinstance(gpus, str) and (gpus < 0 or not (gpus < 1 or float(gpus).is_integer())):
            raise ValueError("must be auto, a share below 1 such as 0.25, or a whole number")
        return gpus

    @model_validator(mode="after")
    def _one_device_each(self) -> Self:
        shared = not isinstance(self.gpus_per_worker, str) and 0 < self.gpus_per_worker < 1
        if shared and self.workers_per_trial > 1:
            raise ValueError(
                "gpus_per_worker: workers that train a trial together need a GPU each, or none (0); NCCL refuses two "
                f"on one; got {self.gpus_per_worker:g}"
            )
        return self

    @field_validator("concurrency")
    @classmethod
    def _positive(cls, concurrency: int | str) -> int | str:
        if isinstance(concurrency, int) and concurrency < 1:
            raise ValueError("must be auto or at least 1")
        return concurrency


class Budget(Schema):
    time: str | None = None
    """such as 90s, 30m, 2h, 1h30m; of one invocation"""
    trial: str | None = None
    """of training of one trial, over its restarts; then it is TIMED_OUT"""

    @field_validator("time", "trial", mode="before")
    @classmethod
    def _duration(cls, time: Any) -> Any:
        if time is not None:
            duration_seconds(str(time))
        return None if time is None else str(time)

    @property
    def seconds(self) -> float | None:
        return None if self.time is None else duration_seconds(self.time)

    @property
    def trial_seconds(self) -> float | None:
        return None if self.trial is None else duration_seconds(self.trial)


class Confirm(Schema):
    top: int = Field(3, ge=1)
    seeds: int = Field(3, ge=1)


class SearchConfig(Schema):
    """A SPACE file."""

    base: str
    objective: tuple[Objective, ...] = (Objective(),)
    """one, or a list for a Pareto search; the first is the validation error"""
    constraints: dict[Metric, Limit] = Field(default_factory=dict[Metric, Limit])
    """what a trial has to hold to be the best, on the Pareto front or promoted"""
    space: dict[str, Domain] = Field(min_length=1)
    start_from: tuple[str, ...] = ()
    """configs tried right after the base, never pruned; a STUDY folder stands for its best trials, whose stages are
    found where both studies share a store"""
    strategy: Strategy = Strategy()
    resources: Resources = Resources()
    budget: Budget = Budget()
    confirm: Confirm = Confirm()

    @field_validator("objective", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping | Objective) else value

    @field_validator("objective")
    @classmethod
    def _error_first(cls, objective: tuple[Objective, ...]) -> tuple[Objective, ...]:
        names = [each.metric for each in objective]
        if names[:1] != ["rollout_nrmse"]:
            raise ValueError("the first objective must be rollout_nrmse")
        if len(set(names)) < len(names):
            raise ValueError("each metric at most once")
        return objective

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.objective

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Every constraint with how far `metrics` is above it, in the metric's unit; above zero is violated.

        A metric that was not measured violates nothing: before its end a run has no latency, and one that never came
        to its end is refused for that. `tune.objectives.broken` is stricter.
        """
        return {name: metrics[name] - limit.max if name in metrics else 0.0 for name, limit in self.constraints.items()}


def duration_seconds(text: str) -> float:
    """Seconds of 90s, 30m, 2h, 1h30m; a bare number is seconds.

    Raises:
        ValueError: neither, or not above zero.
    """
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in (match.groups() if match else (0, 0, 0)))
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise ValueError("a duration is written like 90s, 30m, 2h or 1h30m, and is above zero")
    return total


@dataclass(frozen=True)
class Space:
    """Domains over the paths of one base config.

    A name that is no path of the config is a switch: it has no effect but on the `when` of others. A path whose
    conditions do not hold keeps the base's value.
    """

    domains: Mapping[str, Domain]
    base: Schema

    @cached_property
    def base_values(self) -> dict[str, Any]:
        return self.base.flat()

    @cached_property
    def known(self) -> list[str]:
        """Every path that some config can have."""
        return sorted(set(known_paths(type(self.base))))

    @cached_property
    def switches(self) -> frozenset[str]:
        return frozenset(name for name in self.domains if "." not in name and name not in self.known)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The names, each after those that its `when` asks for; `check_space` has refused cycles."""
        placed: dict[str, None] = {}

        def place(name: str, above: tuple[str, ...]) -> None:
            assert name not in above, "a cycle of `when`"
            for other in self.domains[name].when:
                if other in self.domains and other not in placed:
                    place(other, (*above, name))
            placed[name] = None

        for name in self.domains:
            place(name, ())
        return tuple(placed)

    def is_active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the conditions of `name` hold; `values` has the active names before it."""
        return all(
            holds(condition, values[other] if other in values else self.base_values.get(other))
            and not (other in self.switches and other not in values)
            for other, condition in self.domains[name].when.items()
        )

    def context(self, name: str) -> dict[str, Any]:
        """Values under which `name` is active."""
        values: dict[str, Any] = {}
        for other, condition in self.domains[name].when.items():
            if other in self.domains:
                values |= self.context(other)
                values[other] = candidates(self.domains[other], condition)[0]
        return values

    def draw(self, suggest: Suggest) -> dict[str, Any]:
        """A value from `suggest` for every active name."""
        values: dict[str, Any] = {}
        for name in self.order:
            if self.is_active(name, values):
                values[name] = suggest(name, self.domains[name])
        return values

    def combinations(
        self, fixed: Mapping[str, Any] = MappingProxyType({}), names: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Every combination of the active names' values, each once.

        Args:
            fixed: values that are the same in all.
            names: those to combine, in the order of the space; all by default.

        Raises:
            ValueError: one of them besides `fixed` is an interval.
        """

        def extend(values: dict[str, Any], names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
            if not names:
                yield values
                return
            name, rest = names[0], names[1:]
            if not self.is_active(name, values):
                yield from extend(values, rest)
                return
            options = (fixed[name],) if name in fixed else self.domains[name].options
            if options is None:
                raise ValueError(f"{name}: an interval has no end of values")
            for option in options:
                yield from extend({**values, name: option}, rest)

        return extend({}, self.order if names is None else tuple(names))

    def combinations_besides(self, given: Sequence[Schema]) -> list[dict[str, Any]]:
        """The combinations that are none of the given configs."""
        # a given config may also differ from the base outside the space: then it is no combination
        taken = [params for config in given if self.config_of(params := self.params_of(config)) == config]
        return [params for params in self.combinations() if params not in taken]

    def config_of(self, params: Mapping[str, Any]) -> Any:
        """The base with the parameters of a trial; switches have done their work before.

        Raises:
            ConfigError: the config refuses the combination.
        """
        return self.base.override({name: params[name] for name in params if name not in self.switches})

    def params_of(self, config: Schema) -> dict[str, Any]:
        """Where a given config lies in the space: the active names whose domain holds the config's value."""
        flat = config.flat()
        values: dict[str, Any] = {}
        for name in self.order:
            if not self.is_active(name, values):
                continue
            if name in self.switches:
                values.update(self._switched(name, values, flat))
            elif name in flat and self.domains[name].contains(flat[name]):
                values[name] = flat[name]
        return values

    def _switched(self, name: str, values: dict[str, Any], flat: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The first choice under which every path that hangs on the switch can have the config's value."""
        for option in self.domains[name].choice or ():
            trial = {**values, name: option}
            below = [other for other in self.domains if name in self.domains[other].when]
            if all(
                self.domains[path].contains(flat.get(path))
                if self.is_active(path, trial)
                else same(flat.get(path), self.base_values.get(path))
                for path in below
            ):
                yield name, option
                return


def candidates(domain: Domain, condition: Any) -> list[Value]:
    """Values of a domain that meet a condition, if any does: its ends, and what the condition compares with."""
    operand = comparison_operand(condition)
    values = [*domain.ends, *([operand] if domain.contains(operand) else [])]
    return [value for value in values if holds(condition, value)]

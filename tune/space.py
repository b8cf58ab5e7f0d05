"""What a search may vary: the SPACE file as a frozen value, its domains, conditions and switches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, field_validator, model_validator

from ups.core.schema import Schema, known_paths

Scalar = bool | int | float | str | None
Suggest = Callable[[str, "Domain"], Scalar]
"""gives the value of one name, from its domain: a sampler, a random generator, a person"""

_COMPARISON = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*(\S.*)")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class Domain(Schema):
    """The values of one name: `{float: [low, high]}`, `{int: [low, high]}` or `{choice: [...]}`."""

    model_config = ConfigDict(serialize_by_alias=True)

    interval: tuple[float, float] | None = Field(None, alias="float")
    """both ends included"""
    integers: tuple[int, int] | None = Field(None, alias="int")
    """both ends included"""
    choice: tuple[Any, ...] | None = None
    log: bool = False
    when: dict[str, Any] = Field(default_factory=dict)
    """name -> value it must equal, or a comparison such as "> 0"; all must hold for this name to be sampled"""

    @model_validator(mode="before")
    @classmethod
    def _own_words(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValueError(f"a domain is a mapping such as {{float: [0.1, 1.0]}}, got {data!r}")
        allowed = ("float", "int", "choice", "log", "when")
        for key in data:
            if key not in allowed:
                raise ValueError(f"unknown key {key!r}; a domain has {', '.join(allowed)}")
        if sum(data.get(key) is not None for key in allowed[:3]) != 1:
            raise ValueError("a domain has exactly one of float, int, choice")
        return data

    @field_validator("choice")
    @classmethod
    def _distinct_scalars(cls, choice: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        for position, value in enumerate(choice or ()):
            if not isinstance(value, Scalar):
                raise ValueError(f"choices are numbers, texts, true, false or null, not {value!r}")
            if any(_same(value, other) for other in (choice or ())[:position]):
                raise ValueError(f"{value!r} stands there twice")
        if choice == ():
            raise ValueError("at least one choice is needed")
        return choice

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.choice is not None:
            if self.log:
                raise ValueError("log goes with float or int, not with choice")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"the low end must be below the high end, got [{low:g}, {high:g}]")
        if self.log and low <= 0:
            raise ValueError(f"log needs a low end above 0, got {low:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float] | tuple[int, int]:
        bounds = self.integers or self.interval
        assert bounds is not None, "a choice has no bounds"
        return bounds

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """The values a check has to try: every choice, or both ends."""
        return self.choice if self.choice is not None else self.bounds

    def contains(self, value: object) -> bool:
        if self.choice is not None:
            return any(_same(value, option) for option in self.choice)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.integers and int(value) != value:
            return False
        return self.bounds[0] <= value <= self.bounds[1]


class Objective(Schema):
    metric: Literal["rollout_nrmse"] = "rollout_nrmse"
    direction: Literal["minimize"] = "minimize"


class Strategy(Schema):
    """Who proposes trials, and who stops them."""

    sampler: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["milestone_asha", "none"] = "milestone_asha"
    trials: int = Field(20, ge=1)
    """in total, over all resumes, the base and `start_from` included"""
    keep: float = Field(0.33, gt=0, le=1)
    """share of the arrivals at a milestone that go on"""
    milestones: dict[str, tuple[float, ...]] = Field(
        default_factory=lambda: dict[str, tuple[float, ...]](operator=(0.25, 0.5, 1.0))
    )
    """stage -> shares of it at which trials are compared, increasing"""
    seed: int = Field(0, ge=0, lt=2**31)
    startup_trials: int = Field(10, ge=1)
    """random proposals before TPE begins"""

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
    concurrency: int | Literal["auto"] = "auto"
    """trials at a time; auto is what the machine's CPUs hold"""

    @field_validator("concurrency")
    @classmethod
    def _positive(cls, concurrency: int | str) -> int | str:
        if isinstance(concurrency, int) and concurrency < 1:
            raise ValueError("must be auto or at least 1")
        return concurrency


class Budget(Schema):
    time: str | None = None
    """such as 90s, 30m, 2h, 1h30m; of one invocation"""

    @field_validator("time", mode="before")
    @classmethod
    def _duration(cls, time: Any) -> Any:
        if time is not None:
            duration_seconds(str(time))
        return None if time is None else str(time)

    @property
    def seconds(self) -> float | None:
        return None if self.time is None else duration_seconds(self.time)


class Confirm(Schema):
    top: int = Field(3, ge=1)
    seeds: int = Field(3, ge=1)


class SearchConfig(Schema):
    """A SPACE file."""

    base: str
    objective: Objective = Objective()
    space: dict[str, Domain] = Field(min_length=1)
    start_from: tuple[str, ...] = ()
    """configs tried right after the base, never pruned"""
    strategy: Strategy = Strategy()
    resources: Resources = Resources()
    budget: Budget = Budget()
    confirm: Confirm = Confirm()


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


def holds(condition: Any, value: object) -> bool:
    """Whether `value` meets a `when` condition: equality, or a comparison such as ">= 2"."""
    match = _COMPARISON.fullmatch(condition) if isinstance(condition, str) else None
    if match is None:
        return _same(value, condition)
    sign, operand = match[1], _operand(match[2])
    if sign in ("==", "!="):
        return _same(value, operand) == (sign == "==")
    if not _is_number(value) or not _is_number(operand):
        return False
    assert isinstance(value, (int, float))
    assert isinstance(operand, (int, float))
    return {"<": value < operand, "<=": value <= operand, ">": value > operand, ">=": value >= operand}[sign]


def comparison_operand(condition: Any) -> Scalar:
    """The value that a condition compares with."""
    match = _COMPARISON.fullmatch(condition) if isinstance(condition, str) else None
    return _operand(match[2]) if match else condition


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

    def draw(self, suggest: Suggest) -> dict[str, Any]:
        """A value from `suggest` for every active name."""
        values: dict[str, Any] = {}
        for name in self.order:
            if self.is_active(name, values):
                values[name] = suggest(name, self.domains[name])
        return values

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
                else _same(flat.get(path), self.base_values.get(path))
                for path in below
            ):
                yield name, option
                return


def _operand(text: str) -> Scalar:
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            return value
    return value if isinstance(value, Scalar) else text


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(left: object, right: object) -> bool:
    """Equality that keeps true apart from 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)

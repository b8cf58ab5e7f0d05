"""The values that one name of a space may have, and the conditions under which it is sampled."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Self

import yaml
from pydantic import ConfigDict, Field, field_validator, model_validator

from ups.core.schema import Schema

Scalar = bool | int | float | str | None
Value = Scalar | list[Scalar]

_COMPARISON = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*(\S.*)")


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
    def _plain_and_distinct(cls, choice: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        for position, value in enumerate(choice or ()):
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, Scalar) for part in parts):
                raise ValueError(f"choices are numbers, texts, true, false, null or lists of these, not {value!r}")
            if any(same(value, other) for other in (choice or ())[:position]):
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
    def ends(self) -> tuple[Value, ...]:
        """The values a check has to try: every choice, or both ends."""
        return self.choice if self.choice is not None else self.bounds

    @property
    def options(self) -> tuple[Value, ...] | None:
        """Every value there is, or None for an interval."""
        if self.choice is not None:
            return self.choice
        return tuple(range(self.integers[0], self.integers[1] + 1)) if self.integers else None

    def contains(self, value: object) -> bool:
        if self.choice is not None:
            return any(same(value, option) for option in self.choice)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.integers and int(value) != value:
            return False
        return self.bounds[0] <= value <= self.bounds[1]


def to_journal(value: Value) -> Scalar:
    """A value as Optuna can keep it: a list, such as the depths of an operator, becomes JSON text."""
    return json.dumps(value) if isinstance(value, list) else value


def from_journal(value: Scalar) -> Value:
    """Undoes `to_journal`."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def holds(condition: Any, value: object) -> bool:
    """Whether `value` meets a `when` condition: equality, or a comparison such as ">= 2"."""
    comparison = _comparison(condition) if isinstance(condition, str) else None
    if comparison is None:
        return same(value, condition)
    sign, operand = comparison
    if sign in ("==", "!="):
        return same(value, operand) == (sign == "==")
    if not _is_number(value) or not _is_number(operand):
        return False
    assert isinstance(value, (int, float))
    assert isinstance(operand, (int, float))
    return {"<": value < operand, "<=": value <= operand, ">": value > operand, ">=": value >= operand}[sign]


def comparison_operand(condition: Any) -> Scalar:
    """The value that a condition compares with."""
    comparison = _comparison(condition) if isinstance(condition, str) else None
    return comparison[1] if comparison else condition


@lru_cache(maxsize=4096)
def _comparison(condition: str) -> tuple[str, Scalar] | None:
    """Sign and operand; kept, as a search asks for the same few conditions with every value that it draws."""
    match = _COMPARISON.fullmatch(condition)
    return None if match is None else (match[1], _operand(match[2]))


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


def same(left: object, right: object) -> bool:
    """Equality that keeps true apart from 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)

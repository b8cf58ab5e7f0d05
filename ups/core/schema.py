"""The frozen configuration value that every component's Config derives from."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ups.core.errors import ConfigError


class Schema(BaseModel):
    """A frozen, complete configuration that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Validate nested plain data.

        Raises:
            ConfigError: one line with the path, the value and the rule; unknown keys name the nearest known one.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_one_line(cls, error)) from None

    def override(self, values: Mapping[str, Any]) -> Self:
        """A new value with dotted paths replaced, validated as a whole.

        Choosing another `kind` of a union keeps the keys that both kinds have and drops the rest.

        Raises:
            ConfigError: a path does not exist, a value is refused, or a cross-check fails.
        """
        data = self.model_dump(mode="json")
        # a `kind` comes before its siblings, so that those are set on the kind that was chosen
        for path, value in sorted(values.items(), key=lambda item: (not item[0].endswith("kind"), item[0])):
            _assign(type(self), data, path, value)
        return self.parse(data)

    def flat(self) -> dict[str, Any]:
        """Every leaf by its dotted path; lists count as leaves."""
        return dict(_leaves(self.model_dump(mode="json")))

    def fingerprint(self) -> str:
        """sha256 of the canonical JSON of this value, defaults filled in."""
        return fingerprint(self.model_dump(mode="json"))


def fingerprint(value: object) -> str:
    """sha256 of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def variants(annotation: Any) -> list[type[Schema]]:
    """The Schema classes that a field's annotation allows (through Optional, Annotated and unions)."""
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return variants(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [found for part in get_args(annotation) for found in variants(part)]
    if origin is dict:
        return variants(get_args(annotation)[1])
    return []


def known_paths(schema: type[Schema], prefix: str = "") -> Iterator[str]:
    """Every leaf path that some valid config of `schema` can have."""
    for name, field in schema.model_fields.items():
        below = variants(field.annotation)
        if not below or type(None) in get_args(field.annotation):
            yield prefix + name
        for variant in below:
            yield from known_paths(variant, f"{prefix}{name}.")


def unknown_key(path: str, known: list[str]) -> str:
    """The message for a path that does not exist, with the nearest existing one, or with what stands beside it."""
    if path in known:
        return f"{path}: this key belongs to another kind than the one chosen"
    above, _, leaf = path.rpartition(".")
    groups = {".".join(parts[:k]) for parts in (other.split(".") for other in known) for k in range(1, len(parts))}
    near = difflib.get_close_matches(path, [*known, *sorted(groups)], n=1, cutoff=0.5)
    if above in groups and near:
        # a long beginning in common makes any two neighbours look alike: the last words have to
        beside = sorted({other[len(above) + 1 :].split(".")[0] for other in known if other.startswith(f"{above}.")})
        alike = difflib.get_close_matches(leaf, beside, n=1, cutoff=0.5)
        if not alike and near[0].rsplit(".", 1)[-1] != leaf:
            return f"{path}: unknown key; {above} has {', '.join(beside)}"
    if not near:
        near = [other for other in known if other.rsplit(".", 1)[-1] == leaf][:1]
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{path}: unknown key{hint}"


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _assign(schema: type[Schema], data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node, level = data, [schema]
    for name in parents:
        level = [below for owner in level for below in _below(owner, name)]
        if not level:
            raise ConfigError(unknown_key(path, sorted(set(known_paths(schema)))))
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    if not any(last in owner.model_fields for owner in level):
        raise ConfigError(unknown_key(path, sorted(set(known_paths(schema)))))
    if last == "kind" and node.get("kind") != value:
        chosen = [owner for owner in level if value in get_args(owner.model_fields["kind"].annotation)]
        kept = {key for owner in chosen for key in owner.model_fields}
        for key in [key for key in node if key not in kept]:
            del node[key]
    node[last] = value


def _below(owner: type[Schema], name: str) -> list[type[Schema]]:
    field = owner.model_fields.get(name)
    return variants(field.annotation) if field else []


def _one_line(schema: type[Schema], error: ValidationError) -> str:
    # an unknown key is the likelier cause of whatever else is wrong in the same place
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    return _describe(schema, details[0])


def _describe(schema: type[Schema], detail: ErrorDetails) -> str:
    path = _path(schema, detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown_key(path, sorted(set(known_paths(schema))))
    if detail["type"] == "missing":
        return f"{path}: required key is missing"
    rule = detail["msg"].removeprefix("Value error, ")
    rule = rule[0].lower() + rule[1:]
    given = detail["input"]
    if not path:
        return rule
    if isinstance(given, (Mapping, Schema)):
        return f"{path}: {rule}"
    return f"{path}: {rule}, got {given!r}"


def _path(schema: type[Schema], location: tuple[int | str, ...]) -> str:
    """The dotted path as the user writes it: pydantic's location without the tags of unions."""
    names: list[str] = []
    level = [schema]
    for part in location:
        if any(str(part) in owner.model_fields for owner in level) or not level or isinstance(part, int):
            names.append(str(part))
            level = [below for owner in level for below in _below(owner, str(part))]
        elif any(part in _tags(owner) for owner in level):
            level = [owner for owner in level if part in _tags(owner)]
        else:
            names.append(str(part))
            level = []
    return ".".join(names)


def _tags(owner: type[Schema]) -> tuple[Any, ...]:
    kind = owner.model_fields.get("kind")
    annotation = kind.annotation if kind else None
    return (*(get_args(annotation) if get_origin(annotation) is Literal else ()), owner.__name__)

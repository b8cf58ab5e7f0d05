"""The grid of the table of learning curves, and the table's file.

A node is a prefix of a config, given by its path: the position at each stage among the stage's own combinations.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairs import Data

from ups.config import read_yaml

STAGES = ("operator", "diff_residual", "consistency_distill")
GROUPS = {
    "operator": ("latent.tokens", "operator.mixer", "stages.operator."),
    "diff_residual": ("stages.diff_residual.",),
    "consistency_distill": ("stages.consistency_distill.",),
    "inference": ("ttc.",),
}
"""stage -> how the names begin that it is the first to depend on"""
SPACE = Path(__file__).with_name("stage_table_space.yaml")
OUT = Path("benchmarks/results/stage_table.json.gz")


@dataclass(frozen=True)
class Grid:
    """The levels of the table: for each stage its combinations, in the order of the space."""

    base: str
    names: dict[str, tuple[str, ...]]
    """stage -> names of the space"""
    levels: dict[str, list[dict[str, Any]]]
    """stage -> its combinations"""

    @classmethod
    def load(cls, path: Path = SPACE) -> Grid:
        """The grid of a space in which every domain is a choice without conditions."""
        content = read_yaml(path)
        domains: Mapping[str, Data] = content["space"]
        names = {stage: tuple(name for name in domains if name.startswith(begins)) for stage, begins in GROUPS.items()}
        assert sorted(itertools.chain(*names.values())) == sorted(domains), "a name without a stage"
        levels = {
            stage: [
                dict(zip(own, values, strict=True))
                for values in itertools.product(*(domains[name]["choice"] for name in own))
            ]
            for stage, own in names.items()
        }
        return cls(content["base"], names, levels)

    def prefixes(self, depth: int) -> Iterator[tuple[int, ...]]:
        """Paths of so many levels: the position at each stage."""
        return itertools.product(*(range(len(self.levels[stage])) for stage in list(GROUPS)[:depth]))

    def params(self, path: Sequence[int]) -> dict[str, Any]:
        """Values of the names that a path fixes."""
        merged: dict[str, Any] = {}
        for stage, position in zip(GROUPS, path, strict=False):
            merged |= self.levels[stage][position]
        return merged


def read_lines(path: Path) -> list[Data]:
    """The finished nodes of a seed; a line that a killed process left half-written is cut off."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def write_table(path: Path, data: Data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # no time of day in the file: equal tables are equal files
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def read_table(path: Path) -> Data:
    return json.loads(gzip.decompress(path.read_bytes()))

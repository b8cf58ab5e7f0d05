"""The test split of a study: every reading is written down before it is made, and none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tune.parts import Reading
from ups.config import RunConfig
from ups.core.runtime import write_atomic

_LEDGER = "test_reads.json"
_READING = "test.json"
_READING_TEST = "reading the test split"


class Ledger:
    """Readings of the test split in STUDY/confirm.

    A reading is one comparison of two configs, whatever the number of their seeds: each is one more chance to pick
    what suits the test split by luck, which is why the count goes into the golden.
    """

    def __init__(
        self,
        folder: Path,
        read_test: Callable[[Path], Reading],
        say: Callable[[str], None],
        count: Callable[[str, int, int], None],
    ) -> None:
        """`say` is given a line before every run that is read, `count` is told how many of them are read."""
        self._folder = folder
        self._read_test = read_test
        self._say = say
        self._count = count

    @property
    def count(self) -> int:
        """Readings made in this study."""
        return len(self._entries())

    def read(self, winner: str, reference: str, runs: Sequence[str]) -> dict[str, Reading]:
        """Run folder -> its errors on the test split; what an earlier promotion read is not read again."""
        if not all((self._folder / run / _READING).is_file() for run in runs):
            entry = {
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "winner": winner,
                "reference": reference,
                "runs": list(runs),
            }
            _write_json(self._folder / _LEDGER, [*self._entries(), entry])
        found = {}
        for index, run in enumerate(runs, start=1):
            self._count(_READING_TEST, index - 1, len(runs))
            found[run] = self._reading(run, f"[{index}/{len(runs)}]")
        self._count(_READING_TEST, len(runs), len(runs))
        return found

    def _entries(self) -> list[dict[str, Any]]:
        path = self._folder / _LEDGER
        return json.loads(path.read_text()) if path.is_file() else []

    def _reading(self, run: str, place: str) -> Reading:
        path = self._folder / run / _READING
        if not path.is_file():
            self._say(f"{place} {_READING_TEST}: {run}")
            _write_json(path, asdict(self._read_test(self._folder / run)))
        data = json.loads(path.read_text())
        return Reading(tuple(data["errors_S"]), data["metrics"])


def earlier_reads(configs: Sequence[RunConfig | None], study: str, data: str) -> int:
    """How often the same test split was read before this study, as the goldens that led to it record."""
    reads = [0]
    for config in configs:
        story: Mapping[str, Any] = (config.provenance if config is not None else None) or {}
        counted = story.get("test_split_reads", {})
        if story.get("data") == data and counted:
            # a golden of this very study counts this study's own readings too
            own = counted["in_this_study"] if story.get("study") == study else 0
            reads.append(counted["total"] - own)
    return max(reads)


def _write_json(path: Path, content: Any) -> None:
    write_atomic(path, json.dumps(content, indent=1).encode())

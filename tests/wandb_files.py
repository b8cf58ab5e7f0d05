"""What wandb wrote offline: its transaction log, a LevelDB log of protobuf records behind a header of seven bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_FIRST, _LAST = (1, 2), (1, 4)
"""kinds of a piece that begins, and that ends a record"""


@dataclass
class Page:
    """One run, as wandb's server would have it."""

    name: str = ""
    id: str = ""
    group: str = ""
    kind: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    """metrics, or patterns of them -> over which other one they are drawn"""
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """(name, kind)"""
    code: int | None = None


def pages(folder: Path) -> list[Page]:
    """Every run below the folder, in the order they began."""
    return [read_page(path) for path in sorted(folder.rglob("offline-run-*/run-*.wandb"))]


def read_page(path: Path) -> Page:
    from wandb.proto.wandb_internal_pb2 import Record

    page = Page()
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            page.name, page.id, page.group = run.display_name, run.run_id, run.run_group
            page.kind, page.project = run.job_type, run.project
            page.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            page.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            page.history.append(_values(record.history.item))
        elif kind == "summary":
            page.summary |= _values(record.summary.update)
        elif kind == "metric":
            page.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "request" and record.request.HasField("log_artifact"):
            page.artifacts.append(
                (record.request.log_artifact.artifact.name, record.request.log_artifact.artifact.type)
            )
        elif kind == "artifact":
            page.artifacts.append((record.artifact.name, record.artifact.type))
        elif kind == "exit":
            page.code = record.exit.exit_code
    return page


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[bytes]:
    place, record = 7, b""
    while place + 7 <= len(content):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        if kind == 0:
            return
        piece = content[place + 7 : place + 7 + length]
        if len(piece) < length:  # still being written
            return
        record = piece if kind in _FIRST else record + piece
        if kind in _LAST:
            yield record
        place += 7 + length

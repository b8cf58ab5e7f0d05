"""What a store behind a URI says of each upload, and what its objects are called; see `ups.core.remote_store`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Upload:
    """A manifest."""

    key: str
    what: str
    bytes: int
    seconds: float
    created: float
    sha256: dict[str, str]
    """file -> checksum"""
    blobs: str
    """where the files are"""
    folder: str | None = None
    """where its maker had its checkpoints"""


def parsed(content: bytes) -> Upload | None:
    """None for a manifest that cannot be read, or that names a file elsewhere."""
    try:
        data = json.loads(content)
        facts = {name: data[name] for name in Upload.__dataclass_fields__ if name in data}
        upload = Upload(**facts)
        paths = [Path(upload.blobs), *map(Path, upload.sha256)]
    except (ValueError, KeyError, TypeError):
        return None
    safe = all(not path.is_absolute() and ".." not in path.parts for path in paths)
    return upload if safe and upload.blobs.startswith("blobs/") else None


def manifest_of(name: str) -> str:
    """The object that publishes the artifact of a name."""
    return f"manifests/{name}.json"


def used_of(name: str) -> str:
    """The object that says when it was last used."""
    return f"used/{name}"


def unfinished_of(key: str) -> str:
    """The key of the checkpoints of an artifact's maker while it is made."""
    return f"unfinished {key}"

"""Where a store is, as the user writes it: a folder, or the URI of one of fsspec's file systems.

Credentials never stand in a URI: they are taken from the environment of each process, so that whatever is written or
shown of a study cannot hold them.
"""

from __future__ import annotations

import re
from pathlib import Path

from ups.core.errors import UserError

_CONTAINER_FIRST = ("abfs", "abfss")
"""container@account is a place there, and no user"""
_FOLDER = ("file", "local")
_UNREADABLE = "..."
"""stands for whatever comes after a protocol and may hold a secret"""


def is_uri(place: str) -> bool:
    """Whether a place is no folder of this machine."""
    return "://" in place and _protocol(place) not in _FOLDER


def wash(place: str) -> str:
    """A place as it is; of a URI that may hold a secret the protocol alone, which `check` refuses."""
    if "://" not in place:
        return place
    protocol, _, rest = place.partition("://")
    container = rest.partition("@")[0]
    if protocol in _CONTAINER_FIRST and re.fullmatch(r"[\w-]+", container):
        rest = rest.partition("@")[2]
    has_secret = "@" in rest or "?" in rest or "::" in place or not re.fullmatch(r"[\w+.-]+", protocol)
    return f"{protocol.rpartition(':')[2]}://{_UNREADABLE}" if has_secret else place


def check(place: str) -> str:
    """A place that can be a store.

    Raises:
        UserError: it is empty, or a URI with a user, a password or a query.
    """
    if not place.strip() or place.partition("://")[1:] == ("://", ""):
        raise UserError("must be a folder or a URI such as s3://bucket/path")
    if wash(place) != place or place.endswith(f"://{_UNREADABLE}"):
        raise UserError(
            f"must be protocol://place/path, got more in {wash(place)}; credentials belong into the environment of "
            "every node (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), not into the URI"
        )
    return place


def folder_of(place: str) -> Path:
    """The folder that a place which is no URI names."""
    return Path(place.partition("://")[2] if "://" in place else place)


def _protocol(place: str) -> str:
    return place.partition("://")[0]

"""Sizes as people write them, in bytes."""

from __future__ import annotations

import re

from ups.core.errors import UserError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes of 500MB, 50GB, 1.5TiB; a bare number is bytes.

    Raises:
        UserError: none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise UserError(f"a size is written like 500MB, 50GB or 1.5TiB, got {text!r}")
    return round(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])


def shown_size(size: int) -> str:
    """`512 B`, `1.5 MB`, `50 GB`: powers of 1000."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{float(f'{value:.3g}'):g} {unit}"

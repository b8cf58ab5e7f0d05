"""How much of the machine's memory a process holds, and by how much it grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def resident_bytes() -> float:
    """Of this process, in the machine's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(memory: Sequence[tuple[int, float]]) -> float:
    """Bytes for each ended trial, by least squares over the last nine tenths: caches fill first.

    Args:
        memory: (ended trials, bytes), in their order.
    """
    ended, size = np.array(memory[len(memory) // 10 :], dtype=float).T
    return float(np.polyfit(ended, size, 1)[0])

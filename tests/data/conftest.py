from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ups.data.pdebench import write_tensor_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UPS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small_file(tmp_path):
    """Writes a small Burgers file of noise and returns its path; `values` replaces the noise."""

    def write(name="small.h5", *, shape=(12, 11, 16), seed=0, values=None, dt=0.1, length=1.0, **attributes) -> Path:
        if values is None:
            values = np.random.default_rng(seed).normal(1.0, 2.0, shape)
        return write_tensor_file(tmp_path / name, values, dt=dt, length=length, **(attributes or {"Nu": 0.01}))

    return write

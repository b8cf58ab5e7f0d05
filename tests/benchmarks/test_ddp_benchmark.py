"""Both sides train the same stage, and the verdict is that of the ratio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ddp as script
import pytest

from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.ranks import ALONE

MACHINE = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"}


def test_a_side_counts_the_samples_of_its_part(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = RunConfig.parse(tiny)
    assert script.samples_a_second(config, ALONE, tmp_path, 3) > 0
    with pytest.raises(UserError, match=r"--steps: .* ends before step 102"):
        script.samples_a_second(config, ALONE, tmp_path, 100)


@pytest.mark.parametrize(("together", "verdict"), [(19.0, "reached"), (17.0, "missed")])
def test_the_report(together: float, verdict: str) -> None:
    protocol = {"config": "burgers1d_upt17m", "batch_size": 16, "steps": 8}
    data = script.collect(protocol, [{"apart": 20.0, "together": together + 0.1 * k} for k in (-1, 0, 1)], MACHINE)
    text = script.render(json.loads(json.dumps(data)))
    assert f"Ratio: **{together / 20:.3f}**" in text
    assert f"at least 0.9, is {verdict}" in text

"""The golden config beside FNO: the section of RESULTS.md."""

from __future__ import annotations

from typing import Any

import golden_vs_fno as script
import pytest
from pairs import compared


def run(seed: int, errors: list[float]) -> dict[str, Any]:
    return {
        **{"seed": seed, "errors": errors, "parameters": 1234, "seconds": 50.0, "ms_per_trajectory": 5.0},
        **{"core_share": 1.0, "commit": "abc1234", "date": "2025-01-01"},
    }


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "golden better"), (2.0, "FNO with frame better")])
def test_the_section_says_who_is_better(factor: float, verdict: str) -> None:
    peer = {seed: [0.01 * (seed + k) for k in range(1, 9)] for seed in script.SEEDS}
    golden = {seed: [factor * error for error in errors] for seed, errors in peer.items()}
    data = {
        "protocol": {"seeds": script.SEEDS, "seconds": 50, "rate": 3e-3, "test": 8},
        "machine": {"cpu": "A", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 2, "torch": "2", "python": "3"},
        "golden": {"trial": 7},
        "runs": {
            "golden": [run(seed, errors) for seed, errors in golden.items()],
            script.PEER: [run(seed, errors) for seed, errors in peer.items()],
        },
        "comparison": compared(golden, peer, ("golden", "FNO with frame")),
    }
    text = script.render(data)
    assert verdict in text
    assert f"| golden / FNO with frame | {factor:g} |" in text

"""The soak: what it looks at, what it extrapolates, and what it calls flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soak
from fault_study import Search

MACHINE = {"cpu": "A CPU", "cores": 2, "physical_cores": 2, "jobs_at_a_time": 1, "torch": "2", "python": "3"}
PROTOCOL = {"seconds": 120.0, "every": 5.0, "steps": 10, "disk": 2_000_000, "nice": 0}
HELD = {
    **{"memory": 10**9, "driver": 10**8, "trials' processes": 10**8, "Ray": 8 * 10**8},
    **{"files": 200, "checkpoints": 10**6, "store": 10**6, "logs": 10**5},
}


def section(growth: dict[str, float]) -> str:
    """Of samples that grow by so much a second."""
    samples = [
        {"seconds": 5.0 * k, "trials": k, "records": 1000 * k}
        | {name: value + round(5.0 * k * growth.get(name, 0.0)) for name, value in HELD.items()}
        for k in range(25)
    ]
    data = soak.collect(PROTOCOL, samples, 130, {"COMPLETE": 20, "PRUNED": 4}, MACHINE)
    return soak.render(json.loads(json.dumps(data)))


def test_what_grows_is_extrapolated_to_a_day_and_said() -> None:
    text = section({})
    assert "are flat" in text
    assert "store is bounded" in text
    # 17,280 trials of 5 s
    assert "at 17,280 trials a day" in text
    assert "takes 1 kB and stays" in text
    assert "takes 0 B for each trial" in text
    assert "would add 0 B, and everything else 0 B: flat" in text
    assert "| memory of all processes | 1 GB | 1 GB | 0 B |" in text
    text = section({"files": 1.0})
    assert "are **not flat**" in text
    assert "| +86400 |" in text
    assert "are flat" in section({"memory": 10_000.0})
    # 100 kB of the driver for each trial of 5 s
    text = section({"memory": 20_000.0, "driver": 20_000.0})
    assert "are **not flat**" in text
    assert "takes 100 kB for each trial" in text
    assert "would add 288 MB, and everything else 0 B: flat" in text
    assert "would add 0 B, and everything else 1.73 GB: **not flat**" in section({"memory": 20_000.0})
    assert "store is **not bounded**" in section({"store": 40_000.0})


def test_too_short_is_said() -> None:
    with pytest.raises(soak.UserError, match="--seconds: too short"):
        soak.collect(PROTOCOL, [], 130, {}, MACHINE)


def test_what_processes_hold_is_seen_from_outside(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name, size in (("runs/0000/checkpoints/a", 40), ("runs/0000/config.yaml", 4), ("store/ab/a", 80), ("log", 4)):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_bytes(b"x" * 1024 * size)
    (study / "trials.jsonl").write_text('{"number": 0}\n{"number": 1}\n')
    hold = (
        "import sys; files = [open(sys.argv[1]) for _ in range(30)]; big = b'x' * 3 * 10**7; print(flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(study / "log")]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        search = Search.__new__(Search)
        search.study, search._process = study, process
        found = soak.look(search)
        process.communicate(b"\n")
    assert found["files"] >= 30
    assert found["memory"] == found["driver"] >= 3 * 10**7
    kib = {name: found[name] // 1024 for name in ("checkpoints", "store", "records")}
    assert kib == {"checkpoints": 40, "store": 80, "records": 4 + 4 + 4}
    assert found["trials"] == 2
    assert found["logs"] == 0

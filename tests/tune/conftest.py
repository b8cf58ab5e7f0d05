"""Plans and made-up trainers: a search is tested against tabulated curves, without training."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PASSWORD, Server

from tune.space import SearchConfig
from tune.study import Plan
from ups.config import RunConfig
from ups.core.types import Progress, RunResult, Status

LR = "stages.operator.optimizer.lr"
TASK = {"equation": "burgers", "files": ["data/a.h5"], "train": 8, "validation": 4, "test": 4}
SPACE = {LR: {"float": [1e-4, 10.0], "log": True}, "latent.tokens": {"choice": [16, 32, 64]}}


@pytest.fixture(scope="session")
def base() -> RunConfig:
    return RunConfig.parse({"task": TASK, "stages": {"operator": {"validations": 4}}})


@pytest.fixture
def make_plan(base: RunConfig) -> Callable[..., Plan]:
    """Gives a plan of the space above, with settings of the strategy as keywords."""

    def make(
        space: Mapping[str, Any] = SPACE,
        start_from: tuple[RunConfig, ...] = (),
        concurrency: int = 2,
        **strategy: Any,
    ) -> Plan:
        config = SearchConfig.parse(
            {
                "base": "base.yaml",
                "space": space,
                "start_from": [f"start{number}.yaml" for number, _ in enumerate(start_from)],
                "strategy": {"trials": 6, "startup_trials": 3, **strategy},
                "resources": {"concurrency": concurrency},
            }
        )
        return Plan(config, base, start_from)

    return make


Curve = Callable[[RunConfig, int], float]
"""score at validation k of 4, or one of the exceptions and statuses below"""


@pytest.fixture(scope="session")
def trainer() -> Callable[..., Callable[..., RunResult]]:
    """Gives a trainer that walks a curve; a nested function, so that it travels to a worker by value."""

    def make(curve: Callable[[RunConfig, int], Any], seconds: float = 0.0) -> Callable[..., RunResult]:
        def train(
            config: RunConfig, out: Path, report: Any, *, resume: bool, evaluate_on: str, store: Path, busy: str
        ) -> RunResult:
            out.mkdir(parents=True, exist_ok=True)
            (out / "store").write_text(str(store))
            with open(out / "starts", "a") as stream:
                stream.write(f"{resume}\n")
            done = out / "done"
            start = int(done.read_text()) if resume and done.exists() else 0
            milestones: dict[str, float] = {}
            for k in range(1, 5):
                value = curve(config, k)
                if isinstance(value, Status):
                    return RunResult(value, f"at validation {k}", None, milestones, 1.0, 7, out)
                milestones[f"operator:{k / 4:g}"] = value
                if k <= start:
                    continue
                time.sleep(seconds)
                (out / "next").write_text(str(k))
                os.replace(out / "next", done)  # the checkpoint: whole, whenever the process is killed
                report(Progress("operator", k, 4, k / 4, k, 0.0, 0.0, float(k), value))
            return RunResult(Status.COMPLETE, "", min(milestones.values()), milestones, 4.0, 7, out)

        return train

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A real server, whose password this process and its children know."""
    # not below the folder of pytest, which only its own user may enter
    with tempfile.TemporaryDirectory(prefix="upspg") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        os.chmod(folder, 0o755)
        server = Server(Path(folder) / "server")
        yield server
        server.stop()

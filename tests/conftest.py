"""Fixtures that several folders share: a tiny task on disk, tiny configs, one Ray for the session."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
# a raylet and its agents on a busy machine need longer than Ray waits for them
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")

import pytest
import torch
from hypothesis import HealthCheck, settings
from s3_server import S3Server

import tune.ray_env  # noqa: F401  (before any test module imports Ray)

torch.set_num_threads(1)
# how long an example takes is the machine's, and the first one may compile a kernel
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
# a shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The reduced data of tests never lands in the user's cache."""
    os.environ["UPS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def burgers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 Burgers trajectories of 32 cells and 9 frames, dt 0.05, nu 0.01."""
    from ups.data.generators import generate

    out = tmp_path_factory.mktemp("burgers") / "burgers.h5"
    return generate(
        "burgers",
        out,
        parameters={"nu": 0.01},
        trajectories=24,
        cells=32,
        frames=9,
        dt=0.05,
        seed=3,
        oversample=2,
    )


@pytest.fixture(scope="session")
def tiny(burgers_file: Path) -> dict[str, Any]:
    """Plain data of a RunConfig that trains in about a second."""
    return {
        "task": {"equation": "burgers", "files": [str(burgers_file)], "train": 16, "validation": 4, "test": 4},
        "latent": {"tokens": 8, "dim": 8},
        "encoder": {"width": 16, "blocks": 1, "kernel": 3},
        "operator": {"mixer": "spectral", "depth": 1, "hidden_dim": 16, "modes": 4},
        "decoder": {"kind": "grid", "width": 16, "blocks": 0, "kernel": 3, "cell_width": 4},
        "stages": {
            "operator": {
                "epochs": 4,
                "windows_per_trajectory": 2,
                "batch_size": 8,
                "validations": 4,
                "losses": {"rollout": {"horizon": 2, "warmup": 0.5}},
            }
        },
        "runtime": {"threads": 1},
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """A run that was trained for a second and evaluated."""
    return _trained(tmp_path_factory, tiny)


@pytest.fixture(scope="session")
def fno(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """A Fourier neural operator of the same task, likewise."""
    return _trained(tmp_path_factory, {**tiny, "baseline": {"kind": "fno", "width": 8, "modes": 4, "depth": 2}})


def _trained(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Path:
    from ups.config import RunConfig
    from ups.core.types import Status
    from ups.run import train_run

    out = tmp_path_factory.mktemp("trained") / "run"
    assert train_run(RunConfig.parse(config), out).status is Status.COMPLETE
    return out


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One embedded Ray with two CPUs for the whole test session."""
    import ray

    # a short folder of its own: the paths of Ray's sockets must stay below 108 characters
    # what Ray has killed may still write there for a moment
    with tempfile.TemporaryDirectory(prefix="upsray", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=temporary,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """One server of the S3 protocol for the whole test session."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, well-behaved again after the test; this process and its children know where it is."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_process
    s3_process.refuse = s3_process.lose_answers = 0
    s3_process.deny = s3_process.ignore_conditions = False


SHARED = Path(os.environ.get("UPS_SHARED_DATA") or Path(__file__).parents[1].parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_file() -> Callable[[float], Path]:
    """PDEBench's trajectories at one viscosity, solved by PDEBench's own code."""

    def find(nu: float) -> Path:
        path = SHARED / f"pdebench_burgers_nu{nu:g}.h5"
        if not path.exists():
            pytest.skip(f"{path} is absent")
        return path

    return find

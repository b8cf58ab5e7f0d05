"""The Ray that trials run in: one of this process alone, or a cluster that runs already and is only joined."""

from __future__ import annotations

import tune.ray_env  # isort: skip  (before Ray)

import contextlib
import logging
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import tune
import ups
from tune.placement import GIB, Demand, Node, demand_of, trials_at_a_time, what_is_missing
from tune.ray_env import FOR_WORKERS
from tune.space import Resources
from ups.core.errors import UserError

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""the nodes of a cluster are asked for at most this often"""
CONNECT_SECONDS = 5
"""how long an address may refuse before it is given up; Ray's own wait is 20 s, also for a wrong token"""
NODE_SECONDS = 120.0
"""how long a node may take to answer: its first worker process starts, and fetches the code"""


class Pool:
    """Places for the trials of one search.

    Of a cluster it follows what is there: nodes join and leave. One that starts nodes on demand (`ray up`, KubeRay) has
    to be asked for more than it holds, or it would never grow: a quarter more, at least one trial.
    """

    def __init__(self, resources: Resources, nodes: Callable[[], Sequence[Node]], *, grows: bool) -> None:
        """
        Raises:
            UserError: no trial can ever run there, and no node is going to be added; or what a worker takes is left
                to nodes that are still to come.
        """
        self._resources = resources
        self.workers = resources.workers_per_trial
        self.nodes = nodes
        self._grows = grows
        found = nodes()
        if grows and resources.gpus_per_worker == "auto" and not any(node.gpus for node in found):
            raise UserError(
                "resources.gpus_per_worker: auto looks at the nodes that are there, and this cluster starts its nodes "
                "on demand; say how many GPUs a worker takes, 0 for none"
            )
        self.demand: Demand = demand_of(resources, found)
        missing = what_is_missing(self.demand, found, self.workers)
        if missing is not None and not grows:
            raise UserError(missing)
        if missing is not None:
            warnings.warn(f"{missing} (this cluster starts nodes on demand, so the search waits)", stacklevel=2)
        self._looked = time.monotonic()
        self._limit = self._count(found)

    def limit(self) -> int:
        """How many trials may be started at the moment, those that run included; at least 1."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._limit = self._count(self.nodes())
            self._looked = time.monotonic()
        return self._limit

    def _count(self, nodes: Sequence[Node]) -> int:
        held = trials_at_a_time(self.demand, nodes, self.workers)
        wanted = self._resources.concurrency
        if self._grows:
            return held + max(1, held // 4) if wanted == "auto" else wanted
        return max(1, held if wanted == "auto" else min(held, wanted))


def this_machine(resources: Resources) -> Node:
    """What a Ray of this process alone is given: the CPUs that it may use, or as many as the trials at a time need."""
    import torch

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if resources.concurrency != "auto" and resources.cpus_per_worker <= cpus:
        # who says how many trials run at a time may also let them share CPUs
        cpus = max(cpus, resources.concurrency * resources.cpus_per_trial)
    memory = ray._private.utils.estimate_available_memory() / GIB
    return Node(cpus, torch.cuda.device_count(), memory)


def live_nodes() -> list[Node]:
    """The nodes of the Ray that this process is connected to."""
    return [
        Node(found.get("CPU", 0.0), found.get("GPU", 0.0), found.get("memory", 0.0) / GIB)
        for found in (node["Resources"] for node in ray.nodes() if node["Alive"])
    ]


def dashboard_address() -> str | None:
    """Where the page of the Ray that this process is connected to is, as its head says; None where it has none."""
    place = ray._private.worker.get_dashboard_url()
    return f"http://{place}" if place else None


def grows() -> bool:
    """Whether nodes are started on demand: those of a cluster launcher or of KubeRay carry the name of their group."""
    launched = Path("~/ray_bootstrap_config.yaml").expanduser().exists()
    return launched or any("ray.io/node-group" in node["Labels"] for node in ray.nodes() if node["Alive"])


@contextlib.contextmanager
def joined(address: str) -> Generator[None]:
    """A connection to a cluster, which goes on when this process leaves.

    Its workers get `ups` and `tune` as they are here, so that a node needs only what these depend on.

    Args:
        address: auto (the cluster that runs on this machine) or host:port of its head.

    Raises:
        UserError: there is no cluster, or it does not accept our token.
    """
    if address.startswith("ray://"):
        raise UserError(
            f"--address: auto or host:port of the head, got {address}; a search has to run on a machine of the "
            "cluster: log in there, or use `ray job submit`"
        )
    _check_answers(address)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), _variables(RAY_gcs_server_port_wait_time_s=str(CONNECT_SECONDS)):
        warnings.simplefilter("ignore")
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={
                    "py_modules": [str(Path(module.__file__ or "").parent) for module in (ups, tune)],
                    "env_vars": {name: os.environ[name] for name in FOR_WORKERS},
                },
            )
        except (ConnectionError, RayError, RuntimeError, ValueError, AssertionError) as error:
            raise UserError(_why_not(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """See that something listens there: where nothing does, Ray tries for minutes."""
    try:
        place = ray._private.services.canonicalize_bootstrap_address(address)
        host, _, port = (place or "").rpartition(":")
        if not host or not port.isdigit():
            raise ConnectionError("no cluster was started on this machine")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(_why_not(address, error)) from error


def _why_not(address: str, error: BaseException) -> str:
    said = ""
    cause: BaseException | None = error
    while cause is not None:
        # Ray quotes what went wrong below, and does not chain it
        said += f"{type(cause).__name__}: {cause}\n"
        cause = cause.__cause__ or cause.__context__
    if "no authentication token" in said:
        return (
            f"--address: the cluster at {address} needs a token, and there is none here; set RAY_AUTH_TOKEN, "
            "RAY_AUTH_TOKEN_PATH, or copy the head's ~/.ray/auth_token"
        )
    if "InvalidAuthToken" in said or "AuthenticationError" in said:
        return (
            f"--address: the cluster at {address} does not accept this token; every node and driver needs the same "
            "one (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token of the head), and RAY_AUTH_MODE=token"
        )
    if "Version mismatch" in said:
        return (
            f"--address: the cluster at {address} runs another version of Python or Ray than this process; "
            "install what constraints.txt says on every node, or use one image"
        )
    return (
        f"--address: no Ray cluster answers at {address}; start one with `ray start --head` on this machine or "
        "join it with `ray start --address HEAD:6379`"
    )


def on_every_node(task: Callable[[], T], seconds: float = NODE_SECONDS) -> Iterator[tuple[str, T | str]]:
    """What `task` gives on each node that lives, beside the node's name; in words why a node gave nothing."""
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(task)
    alive = [node for node in ray.nodes() if node["Alive"]]
    futures = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in alive
    ]
    deadline = time.monotonic() + seconds
    for node, future in zip(alive, futures, strict=True):
        # several nodes on one machine have one address
        name = f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"
        try:
            yield name, ray.get(future, timeout=max(0.1, deadline - time.monotonic()))
        except GetTimeoutError:
            yield name, f"no answer in {seconds:.0f} s"
        except RayError as error:
            yield name, (str(error).strip().splitlines() or [type(error).__name__])[-1]


def check_shared(folder: Path, option: str = "--out") -> None:
    """See that every node has a folder and the working directory, so that no run ends on a node's own disk.

    Args:
        option: of the command line that says the folder.

    Raises:
        UserError: a node that lacks one of them.
    """
    directory = os.getcwd()
    marker = folder / f".shared-{uuid.uuid4().hex}"
    marker.touch()

    def look() -> str | None:
        return next((str(path) for path in (marker, Path(directory)) if not path.exists()), None)

    try:
        for name, found in on_every_node(look):
            if found is not None:
                what = folder if found == str(marker) else found
                raise UserError(
                    f"{option}: {what} must be on a file system that every node shares, and node {name} has it not"
                    f"{'' if found in (str(marker), directory) else f' ({found})'}; "
                    "choose another folder, or see `ups doctor --address`"
                )
    finally:
        marker.unlink(missing_ok=True)


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Variables of the environment for a moment; those that are set already stay as they are."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]

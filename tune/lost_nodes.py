"""A trial that dies because its machine does: no fault of the trial, whatever Ray counts."""

from __future__ import annotations

import tune.ray_env  # isort: skip  # noqa: F401  (before Ray)

import socket
import time
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

DOUBT_SECONDS = 120.0
"""how long a node may be dead before its cluster says so"""
LOOK_SECONDS = 1.0
CONNECT_SECONDS = 2.0
"""a node that does not take a connection in this time is lost"""


class LostNodes(Callback):
    """Takes back the failures that Tune has counted when a trial's node was lost.

    A trial whose process died is started again at once. The cluster finds out later whether it was its node that died,
    when the next nodes may be lost as well: so the node itself is asked first. Ray leaves out those alone whose node
    announced its end.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        """trial -> id of the node on which it runs"""
        self._doubtful: list[tuple[Trial, str, float]] = []
        """a trial that died, its node, and until when the death may be the node's"""
        self._looked = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return (object, ())  # Tune pickles it for a restore of its own, which is never used

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        node = node_of(trial.temporary_state.ray_actor)
        if node is not None:
            self._nodes[trial.trial_id] = node

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        node = self._nodes.pop(trial.trial_id, None)
        if node is None:
            return
        if is_up(node):
            self._doubtful.append((trial, node, time.monotonic() + DOUBT_SECONDS))
        else:
            trial.run_metadata.num_failures -= 1

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        now = time.monotonic()
        if not self._doubtful or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for trial, node, _ in self._doubtful:
            if node not in alive:
                trial.run_metadata.num_failures -= 1
        self._doubtful = [each for each in self._doubtful if each[1] in alive and now < each[2]]


def is_up(node: str) -> bool:
    """Whether a node of this id is in the cluster and takes a connection."""
    found = next((each for each in ray.nodes() if each["NodeID"] == node and each["Alive"]), None)
    if found is None:
        return False
    try:
        socket.create_connection((found["NodeManagerAddress"], found["NodeManagerPort"]), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def node_of(actor: Any) -> str | None:
    """The id of the node on which an actor runs; None where the cluster does not say, as of one that has died."""
    found: dict[str, Any] = ray._private.state.actors(actor._actor_id.hex())
    return found.get("Address", {}).get("NodeID") or None

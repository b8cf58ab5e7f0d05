"""Where trials fit: what one worker takes, what each node has, and in words what is missing when nothing fits.

Nothing here asks Ray: a worker has to fit on ONE node, so the sum over a cluster, which is the easiest to ask for,
says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune.space import Resources

GIB = 2**30
_ROUNDING = 1e-6
"""Ray counts resources in ten-thousandths"""


@dataclass(frozen=True)
class Node:
    """All that a machine has, whether or not it is in use."""

    cpus: float
    gpus: float = 0.0
    memory_gib: float = math.inf


@dataclass(frozen=True)
class Demand:
    """What one worker of a trial takes."""

    cpus: int
    gpus: float = 0.0
    memory_gib: float | None = None

    def bundle(self) -> dict[str, float]:
        """In Ray's words; memory in bytes."""
        gpus = {"GPU": self.gpus} if self.gpus else {}
        memory = {"memory": float(round(self.memory_gib * GIB))} if self.memory_gib else {}
        return {"CPU": float(self.cpus), **gpus, **memory}

    def places(self, node: Node) -> int:
        """How many such workers a node holds when nothing else runs there."""
        found = math.floor(node.cpus / self.cpus + _ROUNDING)
        if self.gpus:
            # a fraction lies on one device: two halves of 0.6 are not a place
            each = math.floor(1 / self.gpus + _ROUNDING) if self.gpus < 1 else 1 / self.gpus
            found = min(found, math.floor(math.floor(node.gpus) * each + _ROUNDING))
        if self.memory_gib:
            memory = node.memory_gib / self.memory_gib
            found = min(found, math.floor(memory + _ROUNDING) if math.isfinite(memory) else found)
        return found


def demand_of(resources: Resources, nodes: Sequence[Node]) -> Demand:
    """What a worker takes; `gpus_per_worker: auto` is a whole one where any node has one, else none."""
    gpus = resources.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    return Demand(resources.cpus_per_worker, gpus, resources.memory_gib_per_worker)


def trials_at_a_time(demand: Demand, nodes: Sequence[Node], workers: int) -> int:
    """How many trials of `workers` workers the nodes hold when nothing else runs there; workers may lie apart."""
    return sum(demand.places(node) for node in nodes) // workers


def what_is_missing(demand: Demand, nodes: Sequence[Node], workers: int) -> str | None:
    """Why no trial can ever run on these nodes: rule, value, remedy. None when one can."""
    if not nodes:
        return "resources: a trial needs a node to run on, and the cluster has none; start one with `ray start`"
    if trials_at_a_time(demand, nodes, workers) >= 1:
        return None
    if any(demand.places(node) for node in nodes):
        held = sum(demand.places(node) for node in nodes)
        return (
            f"resources.workers_per_trial: the {_count(len(nodes), 'node')} hold {_count(held, 'worker')} of "
            f"{_words(demand)}, a trial has {workers}; have fewer workers, let each take less, or add nodes"
        )
    for name, wanted, most, unit in _kinds(demand, nodes):
        if wanted > most + _ROUNDING:
            return (
                f"resources.{name}: at most {most:g}, which is the most {unit} of any one node, got {wanted:g}; "
                "lower it, or add a node that has as much"
            )
    return (
        f"resources: a worker takes {_words(demand)}, and no one node has all of it; "
        "lower what one worker takes, or add such a node"
    )


def _kinds(demand: Demand, nodes: Sequence[Node]) -> list[tuple[str, float, float, str]]:
    """Setting, what a worker takes, the most that any node has, its unit."""
    return [
        ("cpus_per_worker", demand.cpus, max(node.cpus for node in nodes), "CPUs"),
        ("gpus_per_worker", demand.gpus, max(node.gpus for node in nodes), "GPUs"),
        ("memory_gib_per_worker", demand.memory_gib or 0.0, max(node.memory_gib for node in nodes), "GiB of memory"),
    ]


def _words(demand: Demand) -> str:
    parts = [_count(demand.cpus, "CPU")]
    if demand.gpus:
        parts.append(f"{demand.gpus:g} GPU" if demand.gpus <= 1 else f"{demand.gpus:g} GPUs")
    if demand.memory_gib:
        parts.append(f"{demand.memory_gib:g} GiB of memory")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

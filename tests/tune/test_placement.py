"""Where trials fit, on nodes that are only written down."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tune.cluster import Pool
from tune.distributed import workers_of_this_machine
from tune.placement import Demand, Node, demand_of, trials_at_a_time, what_is_missing
from tune.space import Resources
from ups.config import RunConfig
from ups.core.errors import ConfigError, UserError

NODE = st.builds(Node, st.integers(0, 6), st.integers(0, 4), st.integers(1, 8))
DEMAND = st.builds(
    Demand, st.integers(1, 3), st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0, 2.0]), st.sampled_from([None, 1.5])
)


def packed(demand: Demand, node: Node) -> int:
    """Workers put on one node one by one, with a counter for each device: the slow reference."""
    cpus, memory, devices = node.cpus, node.memory_gib, [1.0] * int(node.gpus)
    for count in itertools.count():
        if cpus < demand.cpus or memory < (demand.memory_gib or 0.0):
            return count
        if demand.gpus >= 1:
            free = [number for number, left in enumerate(devices) if left == 1.0][: int(demand.gpus)]
            if len(free) < demand.gpus:
                return count
            for number in free:
                devices[number] = 0.0
        elif demand.gpus:
            number = next((number for number, left in enumerate(devices) if left >= demand.gpus - 1e-9), None)
            if number is None:
                return count
            devices[number] -= demand.gpus
        cpus -= demand.cpus
        memory -= demand.memory_gib or 0.0
    raise AssertionError


@given(DEMAND, NODE)
def test_a_node_holds_as_many_workers_as_can_be_put_on_it_one_by_one(demand, node):
    assert demand.places(node) == packed(demand, node)


@given(DEMAND, st.lists(NODE, max_size=4), st.integers(1, 4))
def test_something_is_missing_exactly_when_no_trial_fits(demand, nodes, workers):
    missing = what_is_missing(demand, nodes, workers)
    assert (missing is None) == (trials_at_a_time(demand, nodes, workers) >= 1)
    assert trials_at_a_time(demand, nodes, workers) <= trials_at_a_time(demand, [*nodes, Node(4, 4, 8)], workers)


@pytest.mark.parametrize(
    ("demand", "workers", "words"),
    [
        (Demand(3), 1, "resources.cpus_per_worker: at most 2, which is the most CPUs of any one node, got 3"),
        (Demand(1, 2.0), 1, "resources.gpus_per_worker: at most 1, which is the most GPUs of any one node, got 2"),
        (Demand(1, 0.0, 9.0), 1, "resources.memory_gib_per_worker: at most 8, which is the most GiB of memory"),
        (Demand(2, 1.0), 1, "a worker takes 2 CPUs, 1 GPU, and no one node has all of it"),
        (Demand(1), 4, "the 2 nodes hold 3 workers of 1 CPU, a trial has 4"),
    ],
)
def test_what_is_missing_is_said_against_each_node_and_not_their_sum(demand, workers, words):
    assert words in str(what_is_missing(demand, [Node(2, 0, 8), Node(1, 1, 4)], workers))


def test_gpus_are_taken_where_there_are_any():
    assert demand_of(Resources(), [Node(4), Node(4, 2)]).bundle() == {"CPU": 1.0, "GPU": 1.0}
    assert demand_of(Resources(), [Node(4)]).bundle() == {"CPU": 1.0}
    shared = Resources(gpus_per_worker=0.5, memory_gib_per_worker=2)
    assert demand_of(shared, [Node(4, 1)]).bundle() == {"CPU": 1.0, "GPU": 0.5, "memory": 2.0 * 2**30}
    with pytest.raises(ConfigError, match=r"gpus_per_worker: must be auto, a share below 1 .* or a whole number"):
        Resources.parse({"gpus_per_worker": 1.5})
    with pytest.raises(ConfigError, match="workers that train a trial together need a GPU each"):
        Resources.parse({"gpus_per_worker": 0.5, "workers_per_trial": 2})


def test_gpus_of_nodes_that_are_still_to_come_are_not_guessed():
    with pytest.raises(UserError, match="auto looks at the nodes that are there, and this cluster starts its nodes"):
        Pool(Resources(), lambda: [Node(4)], grows=True)
    assert Pool(Resources(), lambda: [Node(4, 1)], grows=True).demand == Demand(1, 1.0)
    with pytest.warns(UserWarning, match="gpus_per_worker: at most 0, .*starts nodes on demand"):
        assert Pool(Resources(gpus_per_worker=1), lambda: [Node(4)], grows=True).demand == Demand(1, 1.0)


def test_a_machine_has_the_gpus_that_it_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = RunConfig.parse(
        {"task": {"equation": "burgers", "files": ["a.h5"], "train": 8, "validation": 4, "test": 4}}
    )
    assert workers_of_this_machine(2, config).each.gpus == 1
    with pytest.raises(UserError, match="--workers: at most 2, one for each GPU of this machine, got 3"):
        workers_of_this_machine(3, config)
    assert workers_of_this_machine(3, config.override({"runtime.device": "cpu"})).each.gpus == 0


def test_the_limit_follows_nodes_that_join_and_leave(monkeypatch):
    monkeypatch.setattr("tune.cluster.LOOK_SECONDS", 0.0)
    nodes = [Node(2)]
    pool = Pool(Resources(), lambda: nodes, grows=False)
    bounded = Pool(Resources(concurrency=3), lambda: nodes, grows=False)
    growing = Pool(Resources(gpus_per_worker=0), lambda: nodes, grows=True)
    assert (pool.limit(), bounded.limit(), growing.limit()) == (2, 2, 3)
    nodes.append(Node(8))
    assert (pool.limit(), bounded.limit(), growing.limit()) == (10, 3, 12)
    # all of them lost: one trial waits for what comes back
    nodes.clear()
    assert (pool.limit(), bounded.limit(), growing.limit()) == (1, 1, 1)


def test_a_cluster_that_grows_is_waited_for_and_another_is_refused():
    wide = Resources(cpus_per_worker=16, gpus_per_worker=0)
    with pytest.raises(UserError, match="cpus_per_worker: at most 2"):
        Pool(wide, lambda: [Node(2)], grows=False)
    with pytest.warns(UserWarning, match="cpus_per_worker: at most 2.*starts nodes on demand"):
        assert Pool(wide, lambda: [Node(2)], grows=True).limit() == 1

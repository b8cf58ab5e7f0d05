"""Whose fault a death was."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import ray

from tune import lost_nodes
from tune.lost_nodes import DOUBT_SECONDS, LostNodes, is_up, node_of


@pytest.fixture
def cluster(monkeypatch):
    """Nodes that are alive, and a clock, to be changed."""
    found = SimpleNamespace(alive={"a", "b"}, silent=set(), now=1000.0)
    monkeypatch.setattr(lost_nodes, "is_up", lambda node: node not in found.silent)
    monkeypatch.setattr(lost_nodes, "node_of", lambda actor: actor)
    monkeypatch.setattr(lost_nodes.time, "monotonic", lambda: found.now)
    monkeypatch.setattr(
        lost_nodes.ray, "nodes", lambda: [{"NodeID": node, "Alive": node in found.alive} for node in ("a", "b")]
    )
    return found


def trial_on(node, name="one"):
    return SimpleNamespace(
        trial_id=name, temporary_state=SimpleNamespace(ray_actor=node), run_metadata=SimpleNamespace(num_failures=0)
    )


def die(watch, trial):
    watch.on_trial_start(0, [], trial)
    trial.run_metadata.num_failures += 1
    watch.on_trial_recover(0, [], trial)


def test_a_death_of_the_node_is_taken_back_once_also_when_it_is_seen_late(cluster):
    watch, lost, own = LostNodes(), trial_on("a"), trial_on("b", "two")
    die(watch, lost)
    die(watch, own)
    for seconds in range(30):
        cluster.now += 1
        if seconds == 20:
            cluster.alive = {"b"}
        watch.on_step_begin(0, [])
        assert lost.run_metadata.num_failures == (1 if seconds < 20 else 0)
    assert own.run_metadata.num_failures == 1


def test_nodes_that_are_lost_in_a_row_never_add_up_although_the_cluster_does_not_know_yet(cluster):
    watch, trial = LostNodes(), trial_on("a")
    for _ in range(5):
        cluster.silent = {"a"}
        die(watch, trial)
        assert trial.run_metadata.num_failures == 0
    cluster.alive, cluster.now = set(), cluster.now + 2
    watch.on_step_begin(0, [])
    assert trial.run_metadata.num_failures == 0


def test_a_node_that_dies_much_later_is_not_what_killed_it(cluster):
    watch, trial = LostNodes(), trial_on("a")
    die(watch, trial)
    cluster.now += DOUBT_SECONDS + 1
    watch.on_step_begin(0, [])
    cluster.alive = set()
    cluster.now += 1
    watch.on_step_begin(0, [])
    assert trial.run_metadata.num_failures == 1


def test_a_trial_whose_node_nobody_knows_keeps_its_deaths(cluster):
    watch, trial = LostNodes(), trial_on(None)
    die(watch, trial)
    cluster.alive = set()
    cluster.now += 2
    watch.on_step_begin(0, [])
    assert trial.run_metadata.num_failures == 1


@pytest.mark.usefixtures("ray_session")
def test_an_actor_is_on_its_node():
    class Worker:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    actor = ray.remote(num_cpus=0)(Worker).remote()
    assert ray.get(actor.node.remote()) == node_of(actor)
    assert is_up(node_of(actor))
    unknown = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: "ab" * 16))
    assert node_of(unknown) is None


def test_a_node_that_takes_no_connection_is_lost_before_the_cluster_says_so(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = {
            **{"NodeID": "a", "Alive": True},
            **{"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": server.getsockname()[1]},
        }
        monkeypatch.setattr(lost_nodes.ray, "nodes", lambda: [node])
        assert is_up("a")
        assert not is_up("b")
    assert not is_up("a")

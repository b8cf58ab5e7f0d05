"""A cluster of several raylets on this machine, in a process of its own: the token of another Ray is cached in ours.

As a script it reads commands from stdin, one JSON object a line: {"add": {...}} starts a node, which is answered with
the process id of its raylet, {"signal": ...} sends one to the raylet of the latest node, which is to end it, and
{"remove": true} ends that node altogether. The end of stdin ends it all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

TOKEN = "0123456789abcdef" * 4
SETTINGS = {
    # a raylet and its agents on a busy machine need longer than Ray waits for them
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    # else a worker trains on for 5 s when its raylet is killed
    "RAY_raylet_liveness_self_check_interval_ms": "500",
}


class Raylets:
    """A cluster whose head has no dashboard, whose dozen processes take longer to start than all others."""

    def __init__(self, head_cpus: int = 1) -> None:
        # what was killed may still write there for a moment
        self.folder = tempfile.TemporaryDirectory(prefix="upsrl", dir="/tmp", ignore_cleanup_errors=True)
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"num_cpus": head_cpus, "include_dashboard": False})],
            env={**self.environment, "RAY_TMPDIR": self.folder.name, **SETTINGS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address: str = self._answer()["address"]

    def add(self, **node: Any) -> int:
        """Start a node; gives the process id of its raylet."""
        return self._tell({"add": node})["raylet"]

    def signal(self, number: int) -> None:
        """Send a signal to the raylet of the latest node, and wait for its end."""
        self._tell({"signal": number})

    def remove(self) -> None:
        self._tell({"remove": True})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(240)
        self.folder.cleanup()

    def _tell(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the cluster has ended")


def main() -> None:
    import tune.ray_env  # noqa: F401

    from ray.cluster_utils import Cluster  # isort: skip

    cluster = Cluster(initialize_head=True, head_node_args=json.loads(sys.argv[1]))
    added = []
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        if "add" in command:
            added.append(cluster.add_node(**command["add"]))
            answer["raylet"] = _raylet(added[-1]).pid
        elif "signal" in command:
            _raylet(added[-1]).send_signal(command["signal"])
            # its workers look whether it is there, and a process that nobody has waited for is
            _raylet(added[-1]).wait()
        else:
            cluster.remove_node(added.pop(), allow_graceful=False)
            # the cluster finds it out later
            cluster.wait_for_nodes(240)
        print(json.dumps(answer), flush=True)
    cluster.shutdown()


def _raylet(node: Any) -> subprocess.Popen[bytes]:
    return node.all_processes["raylet"][0].process


if __name__ == "__main__":
    main()

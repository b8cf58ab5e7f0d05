"""Ports for servers that tests start, stop, and start again."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

PORTS = range(20_000, 32_000)
"""above those of Ray's workers, and below those that a system hands out to whoever asks for any port: one of these
would be somebody else's by the time a server wants it, or wants it back"""


def lasting_port() -> int:
    """A port of 127.0.0.1 that is free, and that nobody is given by chance."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"of 100 ports from {PORTS[0]} to {PORTS[-1]} none is free")

"""Ports for servers that a test starts.

The kernel gives out the ports of its own range (32768 and above, unless somebody set another) to whoever asks
for any: the connections of the other tests, and servers in the time between a test's choice and its use. So
these are taken from below that range, by each of pytest's processes from a share of its own, and none comes
twice before all have been given out.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

import pytest

_FIRST, _END = 10_000, 32_000


def _share() -> Iterator[int]:
    """This process's ports, without end; from a random one on, as two runs may go side by side."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(_FIRST + number, _END, processes)
    first = random.randrange(len(ports))
    return itertools.cycle([*ports[first:], *ports[:first]])


_ports = _share()


def free_port() -> int:
    """A port that nobody uses right now, and that this function gives to nobody else."""
    for port in itertools.islice(_ports, _END - _FIRST):
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue  # somebody uses it
            return port
    raise AssertionError(f"no port from {_FIRST} to {_END - 1} is free")


def own_address() -> str:
    """Of this machine, as others know it. Skips the test if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but those of its own")
        return probe.getsockname()[0]

"""Threads and sockets that a test left behind.

Servers that several tests share say so with `share_port`: what belongs to them is no leak.
"""

from __future__ import annotations

import gc
import threading
from pathlib import Path

from tests.support.waiting import wait_until

#: Ports of servers in this process, and how the names of their threads begin.
_shared: dict[int, str] = {}


def share_port(port: int, thread_prefix: str) -> None:
    """A server of this process on this port outlives the test."""
    _shared[port] = thread_prefix


def unshare_port(port: int) -> None:
    """It is gone."""
    del _shared[port]


def running_threads() -> set[threading.Thread]:
    """Threads that somebody has to end: ours, and all that would keep the process from ending."""
    prefixes = tuple(_shared.values())
    return {
        thread
        for thread in threading.enumerate()
        if (not thread.daemon or thread.name.startswith("pyworker-"))
        and not (prefixes and thread.name.startswith(prefixes))
    }


def open_sockets() -> set[str]:
    """The sockets of this process, as the kernel names them."""
    found: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:"):
            found.add(target)
    return found - _sockets_of_shared() if _shared else found


def _sockets_of_shared() -> set[str]:
    found: set[str] = set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) in _shared:
            found.add(f"socket:[{fields[9]}]")
    return found


class LeakCheck:
    """What there was before a test; `finish` compares."""

    def __init__(self) -> None:
        self._threads = running_threads()
        self._sockets = open_sockets()

    def finish(self) -> None:
        """AssertionError where the test left threads or sockets; those just ending get a moment."""
        if not self._left():
            return
        gc.collect()  # what is only kept by a cycle, such as a traceback, is not the test's fault
        wait_until(lambda: not self._left(), f"the end of everything the test began: {self._left()}", 5.0)

    def _left(self) -> list[str]:
        threads = [repr(thread) for thread in running_threads() - self._threads]
        return sorted(threads) + sorted(open_sockets() - self._sockets)

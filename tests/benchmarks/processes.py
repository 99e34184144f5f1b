"""What the processes of one server have used, from /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat, counted from the one after the name.
_USER, _SYSTEM = 11, 12


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and the sum of each process's largest resident memory in bytes."""

    cpu: float
    peak_memory: int


def usage(pid: int) -> Usage:
    """Of a process and all its descendants that live now."""
    cpu, memory = 0, 0
    for one in _tree(pid):
        with contextlib.suppress(OSError):  # it ended just now
            fields = Path(f"/proc/{one}/stat").read_text("utf-8").rpartition(")")[2].split()
            cpu += int(fields[_USER]) + int(fields[_SYSTEM])
            memory += _peak(Path(f"/proc/{one}/status").read_text("utf-8"))
    return Usage(cpu / _TICKS, memory)


def _peak(status: str) -> int:
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text("utf-8").split():
                yield from _tree(int(child))

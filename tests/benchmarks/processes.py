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
    """CPU seconds so far, and the sum of each process's largest resident memory in bytes.

    Pages that a forked process still shares with its parent are counted once.
    """

    cpu: float
    peak_memory: int


def usage(pid: int) -> Usage:
    """Of a process and all its descendants that live now."""
    cpu, memory = 0, 0
    for one in _tree(pid):
        with contextlib.suppress(OSError):  # it ended just now
            fields = Path(f"/proc/{one}/stat").read_text("utf-8").rpartition(")")[2].split()
            cpu += int(fields[_USER]) + int(fields[_SYSTEM])
            memory += _peak(Path(f"/proc/{one}"))
    return Usage(cpu / _TICKS, memory)


def _peak(process: Path) -> int:
    status, shares = _kilobytes(process / "status"), _kilobytes(process / "smaps_rollup")
    shared = max(status["RssAnon"] - shares["Pss_Anon"], 0)
    return (status["VmHWM"] - shared) * 1024


def _kilobytes(file: Path) -> dict[str, int]:
    """The lines of such a file that hold an amount."""
    lines = (line.split() for line in file.read_text("utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text("utf-8").split():
                yield from _tree(int(child))

"""The lock that lets one start at a time through.

It is on an open file that the launcher keeps and the worker inherits, so the kernel releases it when the last
of them is gone, however they ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

_POLL_SECONDS = 0.1


class NoLocks(Exception):
    """The file system has no locks, like some network file systems."""


def take(descriptor: int, patience: float, say: Callable[[str], None]) -> str:
    """Lock this open file; empty, or who has the lock.

    If the launcher that has locked it is gone, its worker is still finishing requests: wait for that, at most
    `patience` seconds. Raises `NoLocks`.
    """
    deadline = time.monotonic() + patience
    waiting = False
    while not _locked(descriptor):
        owner = _owner(descriptor)
        if owner and _has_open(owner, descriptor):
            return f"process {owner}"
        if time.monotonic() >= deadline:
            return "the worker of an earlier start"
        if not waiting:
            say("  waiting for the worker of an earlier start to end")
            waiting = True
        time.sleep(_POLL_SECONDS)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return ""


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocks(error.strerror) from error
    return True


def _owner(descriptor: int) -> int:
    """The process whose id is in the file; 0 for the moment before it is written."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _has_open(process: int, descriptor: int) -> bool:
    """Whether the process has this file open: the id may have been reused."""
    ours = os.fstat(descriptor)
    try:
        return any(_is_same(entry, ours) for entry in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def _is_same(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except OSError:
        return False

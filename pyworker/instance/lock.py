"""The lock of an instance: one start at a time.

It is on an open file that the launcher keeps and the worker inherits, so the kernel releases it once both
have ended, however that happened.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from pyworker.instance.ports import open_files

_POLL_SECONDS = 0.1


class NoLocks(Exception):
    """The file system has no locks, like some network file systems."""


def take(descriptor: int, patience: float, say: Callable[[str], None]) -> str:
    """Lock this open file; returns the owner of the lock instead, in words, if there is one.

    If the launcher that has locked it is gone, its worker is still finishing requests: wait for that, at most
    `patience` seconds. Raises `NoLocks`.
    """
    deadline = time.monotonic() + patience
    path = Path(f"/proc/self/fd/{descriptor}")
    waiting = False
    while not _locked(descriptor):
        owner = _owner(descriptor)
        # The id may have been reused, by a process that does not have this file open.
        if owner and open_files(owner) & {str(path.readlink())}:
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

"""The lock that lets one start at a time through.

It is on an open file that the script keeps and the worker inherits, so that the kernel lifts it when the
last of them is gone, however they ended.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LOOK = 0.1

HELD = 1
NO_LOCKS = 2


class NoLocks(Exception):
    """The file system has no locks, as some that come over a network."""


def take(descriptor: int, script: int, patience: float) -> int:
    """Lock this open file for the process `script`; 0, or the process id of the script that has it.

    A lock whose script is gone is held by what that has left, a worker that finishes its requests: that is
    waited for, at most `patience` seconds; raises TimeoutError after them, `NoLocks` if there are none.
    """
    deadline = time.monotonic() + patience
    told = False
    while not _locked(descriptor):
        owner = _owner(descriptor)
        if owner and _has_open(owner, descriptor):
            return owner
        if time.monotonic() >= deadline:
            raise TimeoutError
        if not told:
            sys.stderr.write("  waiting for the worker of an earlier start to end\n")
            told = True
        time.sleep(_LOOK)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{script}\n".encode(), 0)
    return 0


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocks(error.strerror) from error
    return True


def _owner(descriptor: int) -> int:
    """Who wrote itself into the file last; 0 where nobody did, which is so for a moment only."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _has_open(process: int, descriptor: int) -> bool:
    """Whether the process has the very file open: its id may belong to another one by now."""
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


def main(arguments: Sequence[str]) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(
        prog="lock.py",
        description="Lock an open file for the calling process; print who has it otherwise.",
        epilog=f"Exit status: {HELD} where somebody has it, {NO_LOCKS} where it cannot be locked.",
    )
    parser.add_argument("descriptor", type=int, help="of the file, inherited from the calling process")
    parser.add_argument("script", type=int, help="id of the calling process")
    parser.add_argument("patience", type=float, help="seconds that a worker without a script is waited for")
    options = parser.parse_args(arguments)
    try:
        owner = take(options.descriptor, options.script, options.patience)
    except TimeoutError:
        owner = -1
    except NoLocks as error:
        sys.stdout.write(str(error))
        return NO_LOCKS
    if owner:
        sys.stdout.write(f"process {owner}" if owner > 0 else "the worker of an earlier start")
    return HELD if owner else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

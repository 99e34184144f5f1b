"""The log files of an instance: set aside, copied to, and searched for why a worker has ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO

from pyworker.instance.output import Output, StartError
from pyworker.instance.ports import open_files

#: Bytes above which a log of the instance's own is set aside.
LARGE = 10 * 2**20
_LAST_LINES = 50
_LAST_BYTES = 64 * 1024
_MARK = "pyworker: "
# A start that is repeated within this time, in seconds, adds to FILE.old: what the first one kept stays.
_SAME_START = 60.0


def set_aside(log: Path, output: Output, above: int = 0) -> None:
    """Copy a file of more than `above` bytes to FILE.old and empty it; raises `StartError`.

    A process that has it open continues with the same file.
    """
    old = Path(f"{log}.old")
    try:
        if log.stat().st_size <= above:
            return
    except OSError:
        return
    if not (log.is_file() and os.access(log, os.W_OK)):
        raise StartError(f"{log} cannot be emptied: is it a file that this user may write?")
    try:
        with log.open("rb") as source, old.open("ab" if _is_of_this_start(old) else "wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:  # a full disk must not keep it from being emptied
        output.note(f"{log} cannot be kept as {old} ({error.strerror})")
    os.truncate(log, 0)


def _is_of_this_start(old: Path) -> bool:
    try:
        status = old.stat()
    except OSError:
        return False
    return time.time() - status.st_mtime < _SAME_START and status.st_size < LARGE


def is_recorded(log: Path) -> bool:
    """Whether another process of this process group has the file open: what started this one may copy the
    terminal to it.
    """
    group, own = os.getpgrp(), os.getpid()
    if not group:
        return False  # it began outside of this container, like all others that say 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The fields after the name in parentheses: state, parent, process group.
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            is_beside = int(fields[2]) == group and int(folder.name) != own
            if is_beside and str(log.resolve()) in open_files(int(folder.name)):
                return True
    return False


@contextlib.contextmanager
def copied_to(log: Path) -> Generator[IO[bytes]]:
    """A pipe to the terminal and to the end of this file; on exit, waits until the last writer has closed it.

    A process of its own copies, and lasts until then even if this process or the terminal ends.
    """

    def before_exec() -> None:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)

    with subprocess.Popen(
        ["tee", "-a", "--", str(log)], stdin=subprocess.PIPE, preexec_fn=before_exec
    ) as tee:
        assert tee.stdin is not None
        with tee.stdin as pipe:
            yield pipe


def why_it_ended(status: int, log: Path, begin: int) -> str:
    """The most telling of the log's last lines; all after offset `begin` are the worker's."""
    if status > 128:
        return f"the worker was ended from outside (signal {status - 128}); is there enough memory?"
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(min(begin, size), size - _LAST_BYTES))
        lines = file.read(_LAST_BYTES).decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
    said = [line for line in map(_as_text, lines) if line.strip()] or [""]
    reasons = [line.rpartition(_MARK)[2] for line in said if _MARK in line]
    return f"the worker ended by itself (status {status}): {(reasons or said)[-1]}"


def _as_text(line: str) -> str:
    """A line of LOG_FORMAT=json as one of text; any other as it is. Lines of requests tell nothing here."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            fields = json.loads(line)
            line = f"{fields['time']} {fields['level']} {fields['logger']}: {fields['message']}"
    return "" if " pyworker.requests: " in line else line

"""The log files of an instance: set aside, copied to, and searched for why a worker has ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import IO

from pyworker.instance.output import Output, StartError

_LARGE = 10 * 2**20
_LAST_LINES = 50
_LAST_BYTES = 64 * 1024
_MARK = "pyworker: "


def set_aside_if_large(log: Path, output: Output) -> None:
    """Above 10 MiB."""
    if log.stat().st_size > _LARGE:
        _set_aside(log, output)


def set_aside_unless_empty(log: Path, output: Output) -> None:
    """Do nothing if there is no such file."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > 0:
            _set_aside(log, output)


def _set_aside(log: Path, output: Output) -> None:
    """Copy it to FILE.old and empty it: a process that has it open goes on with the same file."""
    if not (log.is_file() and os.access(log, os.W_OK)):
        raise StartError(f"{log} cannot be emptied: is it a file that this user may write?")
    try:
        shutil.copyfile(log, f"{log}.old")
    except OSError as error:  # a full disk must not keep it from being emptied
        output.note(f"{log} cannot be kept as {log}.old ({error.strerror})")
    os.truncate(log, 0)


@contextlib.contextmanager
def copied_to(log: Path) -> Generator[IO[bytes]]:
    """A pipe to the terminal and to the end of this file. In the end, waits until the last writer has closed
    it.

    A process of its own does it, which lasts until then, whatever becomes of this process and of the
    terminal.
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
    """The line that says it best among the last ones of the log, of which the worker has written all after
    `begin`.
    """
    if status > 128:
        return f"the worker was ended from outside (signal {status - 128}); is there enough memory?"
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(min(begin, size), size - _LAST_BYTES))
        lines = file.read(_LAST_BYTES).decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
    said = [line for line in lines if line.strip()] or [""]
    reasons = [line.rpartition(_MARK)[2] for line in said if _MARK in line]
    return f"the worker ended by itself (status {status}): {(reasons or said)[-1]}"

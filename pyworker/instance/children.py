"""Child processes of a start, none of which outlives it, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO

from pyworker.instance.output import Output, StartError

try:
    import ctypes

    _prctl = ctypes.CDLL(None).prctl
except (ImportError, AttributeError, OSError):  # a Python without ctypes
    _prctl = None

_PR_SET_PDEATHSIG = 1
#: End a start, with 128 and the signal's number as its status.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Are passed on to the worker.
FORWARDED = (*ENDING, signal.SIGQUIT, signal.SIGUSR1)
_STOP_SECONDS = 10.0
_TICK = 0.2


class Children:
    """Starts processes and ends them, the last one first. For the main thread of a process without others."""

    def __init__(self, output: Output, environ: Mapping[str, str], log: Path) -> None:
        """log: where the output of `run` goes."""
        self.output = output
        self.environ = environ
        self.log = log
        #: Open files that each child inherits.
        self.inherited: tuple[int, ...] = ()
        #: By the name of each in messages, oldest first.
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, *command: str, stdout: IO[bytes] | None = None, stderr: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Each child has a session of its own: Ctrl-C reaches this process first, and all ends in order."""
        parent = os.getpid()

        def before_exec() -> None:
            if _prctl is not None:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was killed before the line above
                os._exit(128 + signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)

        with signals_held():
            self.running[name] = subprocess.Popen(
                command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=self.inherited,
                start_new_session=True,
                preexec_fn=before_exec,
            )
        return self.running[name]

    def wait(self, name: str) -> int:
        """Until it has ended by itself; its status as a shell has it."""
        status = self.running[name].wait()
        del self.running[name]
        return shell_status(status)

    def run(self, text: str, *command: str) -> None:
        """One step with a line of progress; raises `StartError` if it fails."""
        with self.output.step(text), self.log.open("ab") as log:
            process = self.start(text, *command, stdout=log, stderr=log)
            while process.poll() is None:
                self.output.tick()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK)
            if status := self.wait(text):
                raise StartError(f"{text} failed (status {status})")

    def stop_all(self) -> None:
        """SIGTERM; after 10 s SIGKILL, also for whatever a child has started itself."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        while self.running:
            _, process = self.running.popitem()
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def shell_status(status: int) -> int:
    """128 and the number of the signal that has ended a process, as a shell has it."""
    return status if status >= 0 else 128 - status


def handle_signals(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> None:
    """Except for signals that this process was started to ignore, as nohup does."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def exit_on_signals() -> None:
    """SystemExit in the main thread, with the status of a shell."""
    handle_signals(ENDING, lambda number, _frame: sys.exit(128 + number))


@contextlib.contextmanager
def signals_held() -> Generator[None]:
    """No handler runs between the start of a child and its entry in the table."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

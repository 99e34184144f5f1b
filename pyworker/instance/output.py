"""What a start says: progress and notes on the terminal, and in debug.log once that is open."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Generator
from pathlib import Path

_TAIL_LINES = 15
_STDOUT, _STDERR = 1, 2


class StartError(Exception):
    """Why a start has failed and what to do about it, in lines."""

    def __init__(self, *lines: str, reported: bool = True) -> None:
        """reported: False if the autoscaler must not hear of it, since another worker serves."""
        super().__init__(" ".join(lines))
        self.lines = lines
        self.reported = reported


class Output:
    """Writes unbuffered, and goes on if the terminal is closed or the disk is full. Used by one thread.

    name: of the program, in front of its notes.
    """

    def __init__(self, name: str = "start_server.sh") -> None:
        self._name = name
        self._log: int | None = None
        self._line_is_open = False
        self._last_dot = 0.0

    def copy_to(self, log: Path) -> None:
        """From now on everything is appended to this file too."""
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _write(self._log, f"\n{time.strftime('%c %Z')}: {self._name}, process {os.getpid()}\n")

    def say(self, text: str) -> None:
        """A line of progress."""
        self._say(f"{text}\n")

    def note(self, *lines: str) -> None:
        """Lines that matter."""
        self._say("".join(f"{self._name}: {line}\n" for line in lines), _STDERR)

    @contextlib.contextmanager
    def step(self, text: str) -> Generator[None]:
        """A line that ends with the seconds the block has taken, or with "failed" if it raises."""
        began = self._last_dot = time.monotonic()
        self._say(f"  {text} .")
        self._line_is_open = True
        try:
            yield
        except StartError:
            self.end_line(" failed")
            raise
        self.end_line(f" {time.monotonic() - began:.0f} s")

    def tick(self) -> None:
        """To be called often while a step goes on: a dot for each second."""
        now = time.monotonic()
        if now >= self._last_dot + 1:
            self._last_dot = now
            self._write(".")

    def end_line(self, text: str = "") -> None:
        """Nothing if no step is open."""
        if self._line_is_open:
            self._line_is_open = False
            self._write(f"{text}\n")

    def show_tail(self, log: Path) -> None:
        """The last lines of a log as part of an error message: for the terminal alone."""
        self.end_line()
        with contextlib.suppress(OSError), log.open(encoding="utf-8", errors="replace") as lines:
            shown = "".join(f"    {line.rstrip()}\n" for line in deque(lines, _TAIL_LINES))
            _write(_STDERR, f"\nThe last lines of {log}:\n{shown}\n")

    def _say(self, text: str, terminal: int = _STDOUT) -> None:
        self.end_line()
        self._write(text, terminal)

    def _write(self, text: str, terminal: int = _STDOUT) -> None:
        _write(terminal, text)
        if self._log is not None:
            _write(self._log, text)


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode("utf-8", "surrogateescape"))

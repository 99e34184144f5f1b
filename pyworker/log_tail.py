"""Following the model's log through rotation, truncation and whatever else happens to a file.

`LogTailer.tail_once` reads what is there now and never waits, so a loop, a test or a replay can drive it.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyworker.data_types import LogAction
from pyworker.errors import shortened
from pyworker.log_lines import MAX_LINE, LineAssembler, LogActions, LogMatcher, clean

logger = logging.getLogger(__name__)

# Seconds between two looks at a log that did not grow.
_INTERVAL = 0.2
_READ_SIZE = 256 * 1024
# A step ends here even if the log grows faster than it is read, so that a thread can stop between steps.
_READS_AT_ONCE = 64
_FINGERPRINT = 64
_LAST_LINES = 3
_SHOWN_LINE = 200
#: Characters of a line that are passed on, to a log or a report.
MAX_SHOWN = 500
#: Seconds without a new byte after which the last line counts without its newline.
SILENCE = 2.0


def file_problem(mode: int) -> str:
    """Why what has this `st_mode` cannot be followed as a log; empty if it can."""
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return f"cannot be read ({os.strerror(errno.EISDIR)})"
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return f"is {kind}, which cannot be followed: the model server has to log to a regular file"


def unfollowable(path: Path) -> str:
    """Why what is at this path cannot be followed; empty if it can, or is not there yet. Opens nothing."""
    try:
        return file_problem(path.stat().st_mode)
    except OSError:
        return ""


@dataclass(frozen=True)
class LogGlance:
    """What a tailer has seen so far. trouble: why there is nothing to read; `last` lines are cut."""

    path: Path
    lines: int = 0
    last: tuple[str, ...] = ()
    trouble: str = ""

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.path}, which {self.trouble}"
        if not self.lines:
            return f"{self.path}, which holds no whole line yet"
        shown = ", ".join(map(repr, self.last))
        return f"{self.path} ({self.lines} {'lines' if self.lines > 1 else 'line'}; last: {shown})"


class LogTailer:
    """Follows one file from its beginning, through rotation and truncation. One thread owns it.

    on_match(action, line, is_old) is called for each match, in the order of the file. The line is cut to
    `MAX_SHOWN` characters; is_old: it was in the log before the first step. `glance` and `is_current` may be
    read from any thread.
    """

    def __init__(
        self, path: Path, actions: LogActions, on_match: Callable[[LogAction, str, bool], None]
    ) -> None:
        self._path = path
        self._matcher = LogMatcher(actions)
        self._assembler = LineAssembler(overlap=min(max(1024, self._matcher.longest), MAX_LINE // 2))
        self._on_match = on_match
        self._file: BinaryIO | None = None
        self._offset = 0
        # The last bytes before _offset: if they are others now, the file was truncated and written anew.
        self._fingerprint = b""
        # Where the file ended when it was first looked at; None before that.
        self._old_end: int | None = None
        self._is_old = False
        self._grew_at: float | None = None
        # What was said of a last line that had no end yet.
        self._said: set[LogAction] = set()
        self._trouble = ""
        self._lines = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        # Replaced as a whole, never changed.
        self._glance = LogGlance(path, trouble="was not looked at yet")

    @property
    def glance(self) -> LogGlance:
        """What was seen up to the end of the last step."""
        return self._glance

    @property
    def is_current(self) -> bool:
        """Whether all was read that was in the log before the first step."""
        return self._old_end is not None and self._offset >= self._old_end

    def step(self) -> float:
        """`tail_once` for a loop. Returns the seconds until the next step."""
        return 0.0 if self.tail_once(time.monotonic()) else _INTERVAL

    def tail_once(self, now: float | None = None) -> bool:
        """Handle everything that is in the log now; False if nothing new was.

        now: seconds of a monotonic clock; a last line without newline counts once nothing came for `SILENCE`.
        """
        try:
            progressed = self._step()
        except OSError as error:
            self.close()
            self._warn(f"cannot be read ({error.strerror})")
            progressed = False
        if self._old_end is None:
            self._old_end = 0  # there was nothing yet
        if now is not None:
            self._look_at_silence(now, progressed)
        last = tuple(shortened(line.strip(), _SHOWN_LINE) for line in self._last)
        self._glance = LogGlance(self._path, self._lines, last, self._trouble)
        return progressed

    @property
    def line_number(self) -> int:
        """Of the line that `on_match` was called for, as editors count."""
        return self._assembler.number

    def finish(self) -> int:
        """Nobody writes to the file any more: what is left is its last line. Returns how many there were."""
        lines = self._assembler.lines_so_far
        self._handle(self._assembler.flush())
        self.close()
        return lines

    def close(self) -> None:
        """Let go of the file; the next `tail_once` starts at the beginning of what is there then."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._begin_anew()

    def _step(self) -> bool:
        if self._file is None and not self._open():
            return False
        progressed = self._read_on()
        if self._was_rotated():
            # What the writer still put into the old file comes before the new one.
            while self._read_on():
                pass
            self._handle(self._assembler.flush())
            self.close()
            if self._open():
                self._read_on()
            return True
        return progressed

    def _open(self) -> bool:
        try:
            # Looked at before it is opened, which could hang, or do something to a device.
            trouble = file_problem(self._path.stat().st_mode)
            if not trouble:
                # Neither a pipe nor a terminal that took its place meanwhile holds this up.
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
                self._file = os.fdopen(descriptor, "rb", buffering=0)
                status = os.fstat(descriptor)
                trouble = file_problem(status.st_mode)
                if self._old_end is None:
                    self._old_end = status.st_size
        except FileNotFoundError:
            self._trouble = "does not exist"
            return False
        except OSError as error:
            trouble = f"cannot be read ({error.strerror})"
        if trouble:
            self.close()
            self._warn(trouble)
            return False
        self._trouble = ""
        return True

    def _warn(self, trouble: str) -> None:
        if trouble != self._trouble:
            logger.warning("the model log %s %s", self._path, trouble)
        self._trouble = trouble

    def _begin_anew(self) -> None:
        if self._old_end is not None:
            self._old_end = 0  # what comes now was not there before
        self._offset, self._fingerprint = 0, b""
        self._assembler.discard()
        self._said.clear()

    def _read_on(self) -> bool:
        assert self._file is not None
        descriptor = self._file.fileno()
        if self._was_truncated(descriptor):
            logger.info("the model log %s was truncated; reading it from its beginning", self._path)
            self._begin_anew()
        progressed = False
        for _ in range(_READS_AT_ONCE):
            old_left = max((self._old_end or 0) - self._offset, 0)
            data = os.pread(descriptor, min(_READ_SIZE, old_left or _READ_SIZE), self._offset)
            if not data:
                break
            progressed = True
            self._is_old = old_left > 0
            self._offset += len(data)
            self._fingerprint = (self._fingerprint + data[-_FINGERPRINT:])[-_FINGERPRINT:]
            if data.strip(b"\0"):
                self._handle(self._assembler.feed(data))
            else:
                self._skip_hole(descriptor)
        return progressed

    def _skip_hole(self, descriptor: int) -> None:
        """A writer that goes on at its old place in a truncated file leaves a hole, which reads as NULs."""
        try:
            data_at = os.lseek(descriptor, self._offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return  # holes are not known here: what is left of it is read
            data_at = max(os.fstat(descriptor).st_size, self._offset)  # nothing but the hole up to the end
        if data_at > self._offset:
            self._offset = data_at
            self._fingerprint = os.pread(descriptor, _FINGERPRINT, max(data_at - _FINGERPRINT, 0))

    def _was_truncated(self, descriptor: int) -> bool:
        if os.fstat(descriptor).st_size < self._offset:
            return True
        start = self._offset - len(self._fingerprint)
        return os.pread(descriptor, len(self._fingerprint), start) != self._fingerprint

    def _was_rotated(self) -> bool:
        assert self._file is not None
        try:
            there = self._path.stat()
        except OSError:
            return False  # between rename and creation; the old file may still be written to
        here = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    def _handle(self, lines: Iterator[str]) -> None:
        for raw in lines:
            line = clean(raw)
            self._lines += 1
            self._last.append(line)
            try:
                self._report(line)
            finally:
                self._said.clear()

    def _look_at_silence(self, now: float, progressed: bool) -> None:
        if progressed or self._grew_at is None:
            self._grew_at = now
        elif now - self._grew_at >= SILENCE:
            self._grew_at = now
            # Kept as well: its end may still come.
            self._report(clean(self._assembler.partial))

    def _report(self, line: str) -> None:
        shown = ""
        for action in self._matcher.match(line):
            if action not in self._said:
                self._said.add(action)
                shown = shown or shortened(line.strip(), MAX_SHOWN)
                self._on_match(action, shown, self._is_old)

    def __repr__(self) -> str:
        return f"<LogTailer {self._path} offset={self._offset} {self._assembler!r}>"

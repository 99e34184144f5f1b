"""Follows the model's log, through rotation and truncation."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pyworker.data_types import LogAction
from pyworker.errors import shortened
from pyworker.lifecycle.log_glance import LogGlance
from pyworker.lifecycle.log_lines import MAX_LINE, LineAssembler, LogActions, LogMatcher, clean
from pyworker.runtime.redaction import without_secrets

logger = logging.getLogger(__name__)

# Seconds between two reads of a log that did not grow.
_INTERVAL = 0.2
_READ_SIZE = 256 * 1024
# A step ends here even if the log grows faster than it is read, so that a thread can stop between steps.
_READS_AT_ONCE = 64
_FINGERPRINT = 64
_LAST_LINES = 3
_SHOWN_LINE = 200
#: Characters of a line that are passed on, to a log or a report.
MAX_SHOWN = 500
#: Seconds without a new byte after which the last line counts as complete without a newline.
SILENCE = 2.0


def file_problem(mode: int) -> str:
    """Why a file with this `st_mode` cannot be followed as a log; empty if it can."""
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return f"cannot be read ({os.strerror(errno.EISDIR)})"
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return f"is {kind}, which cannot be followed: the model server has to log to a regular file"


def unfollowable(path: Path) -> str:
    """Why this path cannot be followed; empty if it can, or does not exist yet. Opens nothing."""
    try:
        return file_problem(path.stat().st_mode)
    except OSError:
        return ""


class LogTailer:
    """Follows one file from its beginning, through rotation and truncation. One thread owns it.

    on_match(action, line, is_old) is called for each match, in the order of the file. The line is cut to
    `MAX_SHOWN` characters; is_old: it was in the log before the first step. `glance` may be read from any
    thread.
    show(line, action, is_old): what may be shown of a line, empty for nothing; action: the first that
    matches. It is called before `on_match`. hide: takes out of it what must not be shown.
    """

    def __init__(
        self,
        path: Path,
        actions: LogActions,
        on_match: Callable[[LogAction, str, bool], None],
        *,
        show: Callable[[str, LogAction | None, bool], str] = lambda line, _action, _is_old: line,
        hide: Callable[[str], str] = without_secrets,
    ) -> None:
        self._show = show
        self._hide = hide
        self._path = path
        self._matcher = LogMatcher(actions)
        self._assembler = LineAssembler(overlap=min(max(1024, self._matcher.longest), MAX_LINE // 2))
        self._on_match = on_match
        self._file: BinaryIO | None = None
        self._offset = 0
        # The last bytes before _offset: if they have changed, the file was truncated and written again.
        self._fingerprint = b""
        # The size of the file at the first look; None before that.
        self._old_end: int | None = None
        self._is_old = False
        self._grew_at: float | None = None
        # What was already reported for the last, incomplete line.
        self._reported: set[LogAction] = set()
        self._trouble = ""
        self._lines = self._new_lines = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        #: What was read up to the end of the last step. Replaced as a whole, never changed.
        self.glance = LogGlance(path, trouble="was not read yet")

    def step(self) -> float:
        """`tail_once` for a loop. Returns the seconds until the next step."""
        return 0.0 if self.tail_once(time.monotonic()) else _INTERVAL

    def tail_once(self, now: float | None = None) -> bool:
        """Handle everything that is in the log now, without waiting; False if there was nothing new.

        now: monotonic seconds; with them, a last line without newline counts after `SILENCE`.
        """
        try:
            progressed = self._step()
        except OSError as error:
            self.close()
            self._warn(f"cannot be read ({error.strerror})")
            progressed = False
        if self._old_end is None:
            self._old_end = 0  # the file did not exist
        if now is not None:
            self._check_silence(now, progressed)
        last = tuple(self._shortened(line, _SHOWN_LINE) for line in self._last)
        is_current = self._offset >= self._old_end
        self.glance = LogGlance(self._path, self._lines, last, self._trouble, is_current, self._new_lines)
        return progressed

    @property
    def line_number(self) -> int:
        """Number of the line that `on_match` is called for, from 1."""
        return self._assembler.number

    def finish(self) -> int:
        """The file is complete: handle what is left as its last line. Returns the number of lines."""
        lines = self._assembler.lines_so_far
        self._handle(self._assembler.flush())
        self.close()
        return lines

    def close(self) -> None:
        """Close the file; the next `tail_once` opens the path again and starts at its beginning."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._restart()

    def _step(self) -> bool:
        if self._file is None and not self._open():
            return False
        progressed = self._read_on()
        if self._was_rotated():
            # First the rest of the old file, which the writer may still have appended to.
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
            # Checked before opening, which could hang, or have an effect on a device.
            trouble = file_problem(self._path.stat().st_mode)
            if not trouble:
                # With these flags a pipe or a terminal that took its place meanwhile does not block.
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

    def _restart(self) -> None:
        if self._old_end is not None:
            self._old_end = 0  # from here on, everything is new
        self._offset, self._fingerprint = 0, b""
        self._assembler.discard()
        self._reported.clear()

    def _read_on(self) -> bool:
        assert self._file is not None
        descriptor = self._file.fileno()
        if self._was_truncated(descriptor):
            logger.info("the model log %s was truncated; reading it from its beginning", self._path)
            self._restart()
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
        """Skip the hole (read as NULs) that a writer leaves if it goes on at its old offset after
        truncation.
        """
        try:
            data_at = os.lseek(descriptor, self._offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return  # not supported by this file system: read through the hole
            data_at = max(os.fstat(descriptor).st_size, self._offset)  # the hole reaches to the end
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
            current = self._path.stat()
        except OSError:
            return False  # renamed and not created again yet; the old file may still grow
        return not os.path.samestat(current, os.fstat(self._file.fileno()))

    def _handle(self, lines: Iterator[str]) -> None:
        for raw in lines:
            line = clean(raw)
            self._lines += 1
            self._new_lines += not self._is_old
            actions = list(self._matcher.match(line))
            if shown := self._show(line, actions[0] if actions else None, self._is_old):
                self._last.append(shown)
            try:
                self._report(line, actions)
            finally:
                self._reported.clear()

    def _check_silence(self, now: float, progressed: bool) -> None:
        if progressed or self._grew_at is None:
            self._grew_at = now
        elif now - self._grew_at >= SILENCE:
            self._grew_at = now
            # Reported, and kept: the rest of the line may still arrive.
            line = clean(self._assembler.partial)
            self._report(line, self._matcher.match(line))

    def _report(self, line: str, actions: Iterable[LogAction]) -> None:
        shown = ""
        for action in actions:
            if action not in self._reported:
                self._reported.add(action)
                shown = shown or self._shortened(line, MAX_SHOWN)
                self._on_match(action, shown, self._is_old)

    def _shortened(self, line: str, limit: int) -> str:
        # Of twice the length, so that a secret at the cut is recognised as one.
        return shortened(self._hide(line.strip()[: 2 * limit]), limit)

    def __repr__(self) -> str:
        return f"<LogTailer {self._path} offset={self._offset} {self._assembler!r}>"

"""Following the model's log: bytes to lines, lines to what they mean.

`LogTailer.tail_once` reads what is there now and never waits, so a loop, a test or a replay can drive it.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyworker.data_types import LogAction
from pyworker.errors import shortened

logger = logging.getLogger(__name__)

#: A longer line is looked at in pieces of this size, in bytes.
MAX_LINE = 64 * 1024
_READ_SIZE = 256 * 1024
# A step ends here even where the log grows faster than it is read, so that a thread can stop between steps.
_READS_AT_ONCE = 64
_FINGERPRINT = 64
_LAST_LINES = 3
_SHOWN_LINE = 200

LogActions = Sequence[tuple[LogAction, str]]
# Error before load before info, whatever the order in which the author wrote them.
_PRIORITY = (LogAction.ModelError, LogAction.ModelLoaded, LogAction.Info)


class LineAssembler:
    """Bytes in, whole lines out; memory is bounded by `max_line`. Not thread-safe: one reader owns it.

    A line ends at LF or CR (progress bars rewrite themselves with CR). Of a line longer than `max_line` the
    pieces overlap by `overlap` bytes, so that a phrase across a seam is not missed. Invalid UTF-8 becomes
    U+FFFD.
    """

    def __init__(self, max_line: int = MAX_LINE, overlap: int = 1024) -> None:
        if not 0 <= overlap < max_line:
            raise ValueError("the overlap must be shorter than a line")
        self._max_line = max_line
        self._overlap = overlap
        self._partial = bytearray()
        #: Of the line that is being read, as editors count: 1 at the beginning, one more after each LF.
        self.number = 1

    def feed(self, data: bytes) -> Iterator[str]:
        """Take more bytes; yields each line they complete, without its end."""
        *complete, rest = data.split(b"\n")
        for line in complete:
            yield from self._take(line)
            yield from self.flush()
            self.number += 1
        yield from self._take(rest)

    def flush(self) -> Iterator[str]:
        """What is left is a line: the file ends here. Empty lines are dropped."""
        if self._partial:
            line = self._partial.decode("utf-8", "replace")
            self._partial.clear()
            yield line

    def discard(self) -> None:
        """Forget the partial line: the file it began in is gone."""
        self._partial.clear()
        self.number = 1

    @property
    def lines_so_far(self) -> int:
        """How many lines there were so far, a partial one included."""
        return self.number if self._partial else self.number - 1

    def _take(self, data: bytes) -> Iterator[str]:
        """Bytes without LF."""
        *complete, rest = data.split(b"\r")
        for line in complete:
            self._partial += line
            yield from self._cut()
            yield from self.flush()
        self._partial += rest
        yield from self._cut()

    def _cut(self) -> Iterator[str]:
        while len(self._partial) > self._max_line:
            yield self._partial[: self._max_line].decode("utf-8", "replace")
            del self._partial[: self._max_line - self._overlap]

    def __repr__(self) -> str:
        return f"<LineAssembler [{len(self._partial)} bytes of a partial line]>"


class LogMatcher:
    """Looks for the configured phrases, case-sensitive. Immutable."""

    def __init__(self, actions: LogActions) -> None:
        self._actions = [
            (action, phrase)
            for wanted in _PRIORITY
            for action, phrase in actions
            if action is wanted and phrase
        ]

    def match(self, line: str) -> Iterator[LogAction]:
        """What this line means: an error ends it; a load line may also be an info line."""
        seen: set[LogAction] = set()
        for action, phrase in self._actions:
            if action not in seen and phrase in line:
                seen.add(action)
                yield action
                if action is LogAction.ModelError:
                    return

    @property
    def longest(self) -> int:
        """Bytes of the longest phrase."""
        return max((len(phrase.encode()) for _, phrase in self._actions), default=0)


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

    on_match(action, line) is called for each match, in the order of the file. `glance` may be read from any
    thread.
    """

    def __init__(self, path: Path, actions: LogActions, on_match: Callable[[LogAction, str], None]) -> None:
        self._path = path
        self._matcher = LogMatcher(actions)
        self._assembler = LineAssembler(overlap=min(max(1024, self._matcher.longest), MAX_LINE // 2))
        self._on_match = on_match
        self._file: BinaryIO | None = None
        self._offset = 0
        # The last bytes before _offset: where they are others, the file was truncated and written anew.
        self._fingerprint = b""
        self._trouble = ""
        self._lines = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        # Replaced as a whole, never changed.
        self._glance = LogGlance(path, trouble="was not looked at yet")

    @property
    def glance(self) -> LogGlance:
        """What was seen up to the end of the last step."""
        return self._glance

    def tail_once(self) -> bool:
        """Handle everything that is in the log now; False where nothing new was."""
        progressed = self._step()
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

    def close(self) -> None:
        """Let go of the file; the next `tail_once` starts at the beginning of what is there then."""
        if self._file is not None:
            self._file.close()
        self._file, self._offset, self._fingerprint = None, 0, b""
        self._assembler.discard()

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            self._trouble = "does not exist"
            return False
        except OSError as error:
            trouble = f"cannot be read ({error.strerror})"
            if trouble != self._trouble:
                logger.warning("the model log %s %s", self._path, trouble)
            self._trouble = trouble
            return False
        self._trouble = ""
        return True

    def _read_on(self) -> bool:
        assert self._file is not None
        descriptor = self._file.fileno()
        if self._was_truncated(descriptor):
            logger.info("the model log %s was truncated; reading it from its beginning", self._path)
            self._offset, self._fingerprint = 0, b""
            self._assembler.discard()
        progressed = False
        for _ in range(_READS_AT_ONCE):
            data = os.pread(descriptor, _READ_SIZE, self._offset)
            if not data:
                break
            progressed = True
            self._offset += len(data)
            self._fingerprint = (self._fingerprint + data[-_FINGERPRINT:])[-_FINGERPRINT:]
            self._handle(self._assembler.feed(data))
        return progressed

    def _was_truncated(self, descriptor: int) -> bool:
        if os.fstat(descriptor).st_size < self._offset:
            return True
        start = self._offset - len(self._fingerprint)
        return os.pread(descriptor, len(self._fingerprint), start) != self._fingerprint

    def _was_rotated(self) -> bool:
        assert self._file is not None
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # between rename and creation; the old file may still be written to
        here = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    def _handle(self, lines: Iterator[str]) -> None:
        for line in lines:
            self._lines += 1
            self._last.append(line)
            for action in self._matcher.match(line):
                self._on_match(action, line.strip())

    def __repr__(self) -> str:
        return f"<LogTailer {self._path} offset={self._offset} {self._assembler!r}>"

"""Splits the bytes of a log into lines and matches the lines, in linear time and bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pyworker.data_types import LogAction

#: Bytes of a line; a longer one is matched in pieces of this size.
MAX_LINE = 64 * 1024
#: In a phrase, stands for any text within the line, including none.
GAP = "…"
# ANSI escape sequences (colours, terminal titles); each repeat is bounded.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,64}[@-~]|\][^\x07\x1b]{0,1024}(?:\x07|\x1b\\))")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

LogActions = Sequence[tuple[LogAction, str]]
# The order of matching, independent of the author's order.
_PRIORITY = (LogAction.ModelError, LogAction.ModelLoaded, LogAction.Info)


def clean(line: str) -> str:
    """A line without escape sequences and control characters, as it is matched and shown."""
    if line.isprintable():
        return line
    return _CONTROL.sub("", _ESCAPE.sub("", line))


class LineAssembler:
    """Bytes in, whole lines out; memory is bounded by `max_line`. Not thread-safe: one reader owns it.

    A line ends at LF or CR (progress bars use CR). A line longer than `max_line` is cut into pieces that
    overlap by `overlap` bytes, so that no phrase is missed at a cut. Invalid UTF-8 becomes U+FFFD. NULs are
    dropped: a file that was truncated under its writer begins with them.
    """

    def __init__(self, max_line: int = MAX_LINE, overlap: int = 1024) -> None:
        if not 0 <= overlap < max_line:
            raise ValueError("the overlap must be shorter than a line")
        self._max_line = max_line
        self._overlap = overlap
        self._partial = bytearray()
        #: Number of the line that is being read, from 1; CR does not count.
        self.number = 1

    def feed(self, data: bytes) -> Iterator[str]:
        """Add bytes; yields each line that they complete, without its line end."""
        *complete, rest = data.replace(b"\0", b"").split(b"\n")
        for line in complete:
            yield from self._take(line)
            yield from self.flush()
            self.number += 1
        yield from self._take(rest)

    def flush(self) -> Iterator[str]:
        """The file ends here: yields the rest as a line, unless it is empty."""
        if self._partial:
            line = self._partial.decode("utf-8", "replace")
            self._partial.clear()
            yield line

    def discard(self) -> None:
        """Forget the partial line: the file it began in is gone."""
        self._partial.clear()
        self.number = 1

    @property
    def partial(self) -> str:
        """The line that is being read, as far as it has arrived."""
        return self._partial.decode("utf-8", "replace")

    @property
    def lines_so_far(self) -> int:
        """Number of lines so far, including a partial one."""
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


class Phrase:
    """A text, with gaps, that is searched in a line. Immutable."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = tuple(part for part in text.split(GAP) if part)

    def is_in(self, line: str) -> bool:
        """Whether the line contains the parts in this order. Linear in the length of the line."""
        place = 0
        for part in self._parts:
            place = line.find(part, place)
            if place < 0:
                return False
            place += len(part)
        return bool(self._parts)


class LogMatcher:
    """Searches a line for the configured phrases, case-sensitive. Immutable."""

    def __init__(self, actions: LogActions) -> None:
        self._actions = [
            (action, Phrase(phrase))
            for wanted in _PRIORITY
            for action, phrase in actions
            if action is wanted and phrase
        ]

    def match(self, line: str) -> Iterator[LogAction]:
        """The actions of this line. After an error there are no others; a load line may also be an info
        line.
        """
        seen: set[LogAction] = set()
        for action, phrase in self._actions:
            if action not in seen and phrase.is_in(line):
                seen.add(action)
                yield action
                if action is LogAction.ModelError:
                    return

    @property
    def longest(self) -> int:
        """Bytes of the longest phrase."""
        return max((len(phrase.text.encode()) for _, phrase in self._actions), default=0)

"""Which lines of the model's log may be shown.

Model servers log what they are asked, as vLLM does with each prompt, so a line that was written while the
model served is shown only if

* it matches a phrase of the worker (which are what the autoscaler is told, too), or
* it is an error or a warning: then without its message, which may quote a request, but for the words of a
  well-known trouble.

All lines of a model that starts are shown. In each case a line ends where it begins to quote a request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyworker.data_types import LogAction
from pyworker.errors import shortened
from pyworker.runtime.redaction import sign_in, without_content
from pyworker.telemetry.last_lines import LONGEST, REMEMBERED, LastLines

# What is looked for in each line; all other lines are skipped at once.
_HINTS = ("rror", "RROR", "xception", "CRITICAL", "FATAL", "WARN", "Traceback")
# The head of an error line: a process, a time, the level, the place in the source.
_LEVEL = re.compile(
    r"(?:\(\w{1,40}(?: pid=\d{1,10})?\) ?)?[\d\s:.,\[\]T+/|-]{0,60}"
    r"\b(?:ERROR|CRITICAL|FATAL|WARNING|WARN)\b"
    r"[\d\s:.,TZ-]{0,40}(?:\[[\w./]{1,80}:\d{1,6}\])?"
)
_JSON_LEVEL = re.compile(r'\{"timestamp":"[\dTZ:. +-]{0,40}","level":"(?:ERROR|WARN)"')
_EXCEPTION = re.compile(r"(?:Traceback \(most recent call last\)|[\w.]{1,100}(?:Error|Exception)(?=:|\s*$))")
_HEADS = (_LEVEL, _JSON_LEVEL, _EXCEPTION)


class Match(NamedTuple):
    """A line with a phrase of the worker. at: epoch seconds, when it was read."""

    action: str
    line: str
    at: float


class ModelLines:
    """The last lines that may be shown. The thread that reads the log adds, any thread reads.

    was_ready: whether the worker was ever ready, so that the model may have been asked by clients.
    trusts_old: whether a line that was in the log before the worker started is of a model that starts, unless
    a loaded line came before it.
    """

    def __init__(
        self,
        hide: Callable[[str], str],
        *,
        was_ready: Callable[[], bool],
        trusts_old: Callable[[], bool],
    ) -> None:
        self._hide = hide
        self._kept = LastLines(self.presentable)
        self._was_ready = was_ready
        self._trusts_old = trusts_old
        self._has_loaded = False
        # The last line with a phrase, as it is in the log. Replaced as a whole.
        self._last_match: Match | None = None
        #: When the log grew last, in epoch seconds; None before the first line.
        self.grew_at: float | None = None

    def take(self, line: str, matched: LogAction | None, is_old: bool) -> str:
        """Take a line of the log, without control characters. Returns what `presentable` makes of it may be
        shown; empty for nothing. Cheap, since a log may bring thousands of lines each second.
        """
        shown = _head_of_error(line) if matched is None and self._may_quote(is_old) else line
        self.grew_at = time.time()
        if shown:
            self._kept.append(shown)
        if matched is not None:
            self._last_match = Match(matched.name, shown[: 2 * LONGEST], self.grew_at)
        if matched is LogAction.ModelLoaded:
            self._has_loaded = True
        return shown

    @property
    def last_match(self) -> Match | None:
        """The last line with a phrase; None if there was none."""
        match = self._last_match
        return match and match._replace(line=shortened(self.presentable(match.line), LONGEST))

    def presentable(self, line: str) -> str:
        """Without secrets, and cut where it begins to quote a request."""
        return self._hide(without_content(line))

    def _may_quote(self, is_old: bool) -> bool:
        """Whether the line may be of a model that serves clients."""
        if is_old:
            return self._has_loaded or not self._trusts_old()
        return self._was_ready()

    def lines(self, most: int = REMEMBERED) -> Sequence[str]:
        """The last ones, oldest first."""
        return self._kept.lines(most)

    def __repr__(self) -> str:
        return f"<ModelLines {self._kept!r}>"


def _head_of_error(line: str) -> str:
    """What an error line says before its message; empty for any other line."""
    if not any(hint in line for hint in _HINTS):
        return ""
    for head in _HEADS:
        if found := head.match(line):
            shown = found.group().rstrip()
            if found.end() == len(line):
                return shown
            sign = sign_in(line)
            return f"{shown} … {sign} …" if sign else f"{shown} …"
    return ""

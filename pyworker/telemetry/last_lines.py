"""The last lines of a log, as they may be shown: short, of one line each, without secrets."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyworker.runtime.redaction import one_line

#: Lines that are remembered, and characters of each.
REMEMBERED = 200
LONGEST = 500
#: Records of this logger are not remembered: they would displace all others.
REQUEST_LINES = "pyworker.requests"


class HasLines(Protocol):
    """Whatever can say its last lines."""

    def lines(self, most: int = REMEMBERED) -> Sequence[str]:
        """The last ones, oldest first. Any thread may ask."""
        ...


class LastLines:
    """The last lines, oldest first. Thread-safe. hide: takes secrets out of a line, when it is read."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        # A bounded deque: append and copy are atomic.
        self._lines: deque[str] = deque(maxlen=REMEMBERED)

    def append(self, line: str) -> None:
        """Remember a line; cheap."""
        # Twice as much as is shown, so that a secret at the cut is recognised as one.
        self._lines.append(line[: 2 * LONGEST])

    def lines(self, most: int = REMEMBERED) -> Sequence[str]:
        return [_shortened(self._hide(one_line(line))) for line in list(self._lines)[-most:]]

    def __repr__(self) -> str:
        return f"<LastLines [{len(self._lines)}]>"


class OwnLines(logging.Handler):
    """The worker's own log from INFO on: a handler, while it is attached."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._kept = LastLines(hide)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == REQUEST_LINES:
            return
        try:
            self._kept.append(_text(record, self.formatter))
        except Exception:  # noqa: BLE001  as every handler does: logging must not fail
            self.handleError(record)

    def lines(self, most: int = REMEMBERED) -> Sequence[str]:
        return self._kept.lines(most)

    def attach(self) -> None:
        """Remember what is logged from now on."""
        logging.getLogger().addHandler(self)

    def detach(self) -> None:
        """No more."""
        logging.getLogger().removeHandler(self)


@dataclass(frozen=True)
class WorkerLines:
    """What a worker has to show: lines of its model's log, and its own."""

    model: HasLines
    own: OwnLines


def _text(record: logging.LogRecord, formatter: logging.Formatter | None) -> str:
    """One line; of an exception the type, since its message may quote a request."""
    assert formatter is not None
    record.message = record.getMessage()
    record.asctime = formatter.formatTime(record)
    text = formatter.formatMessage(record)
    kind = record.exc_info[0] if record.exc_info else None
    return text if kind is None else f"{text} ({kind.__name__})"


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"

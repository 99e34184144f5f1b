"""Leaves out some events of an event stream while it is relayed. Pure."""

from __future__ import annotations

import logging
import re

from pyworker.data_types import HiddenEvents
from pyworker.runtime.redaction import located

logger = logging.getLogger(__name__)

_EVENT_END = re.compile(rb"\r?\n\r?\n")
# Bytes of an event that are held back until its end has arrived. A longer one is passed on as it comes.
_MAX_HELD = 64 * 1024


class EventFilter:
    """Passes on whole events, and none that is hidden. Belongs to one thread at a time."""

    def __init__(self, hidden: HiddenEvents) -> None:
        self._hidden = hidden
        # The beginning of an event whose end has not arrived.
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What to pass on now that this piece has arrived; may be empty. Takes linear time, never raises."""
        marker = self._hidden.marker
        if not self._held:
            # Most pieces are one event.
            if piece.endswith(b"\n\n") and marker not in piece:
                return piece
            data, searched = piece, 0
        else:
            data, searched = self._held + piece, max(len(self._held) - 3, 0)
        end = max(_behind_last(data, b"\n\n", searched), _behind_last(data, b"\n\r\n", searched))
        if not end and len(data) > _MAX_HELD:
            end = len(data)
        self._held = data[end:]
        events = data[:end]
        return events if marker not in events else self._without_hidden(events)

    def finish(self) -> bytes:
        """What was held back, at the end of the body."""
        held, self._held = self._held, b""
        return held

    def _without_hidden(self, events: bytes) -> bytes:
        kept: list[bytes] = []
        start = 0
        for found in _EVENT_END.finditer(events):
            event, start = events[start : found.end()], found.end()
            if not self._is_hidden(event):
                kept.append(event)
        return b"".join([*kept, events[start:]])

    def _is_hidden(self, event: bytes) -> bool:
        try:
            return self._hidden.marker in event and self._hidden.matches(event)
        except Exception as error:  # noqa: BLE001  an author's code may do anything
            logger.error("hidden_events failed (%s); the event is passed on", located(error))
            return False

    def __repr__(self) -> str:
        return f"<EventFilter [{len(self._held)} bytes held]>"


def _behind_last(data: bytes, mark: bytes, start: int) -> int:
    """The index behind the last `mark`; 0 if there is none."""
    found = data.rfind(mark, start)
    return 0 if found < 0 else found + len(mark)

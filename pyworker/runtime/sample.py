"""The beginning and end of a response body, and its number of events: enough to detect an error object and to
measure the work done, in bounded memory. Pure.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import Self

from pyworker.runtime.redaction import located

logger = logging.getLogger(__name__)

#: Bytes kept of each end of a body.
KEPT = 16 * 1024
EVENT_STREAM = "text/event-stream"
_MOST_TOKENS = 10**12
# Each event of a language model has one such field.
_DATA = b"\ndata:"


@dataclass(frozen=True)
class ResponseSample:
    """A response of the model server, as `find_failure` and `count_work` get it. Immutable.

    content_type: as the model server sent it; empty if it sent none. beginning, end: at most the first and
    the last `KEPT` bytes of the body, still in its content coding; both are the whole of a body up to that
    size. length: of the body, in bytes. events: server-sent events in it. is_complete: False if it was cut,
    by the model server or since its client hung up; the rest is about what had arrived by then.
    """

    status: int
    content_type: str
    beginning: bytes
    end: bytes
    length: int
    events: int = 0
    is_complete: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether `beginning` is the whole body."""
        return self.length == len(self.beginning)


class Sampler:
    """Keeps the beginning and end of a body while it is relayed.

    `feed` belongs to one thread at a time. Any thread may call `sample`: each attribute is replaced as a
    whole, so that at worst they differ by the piece that is just being fed.
    """

    def __init__(self, status: int, content_type: str) -> None:
        self._status = status
        self._content_type = content_type
        self._is_events = content_type.partition(";")[0].strip().lower() == EVENT_STREAM
        self._beginning = b""
        self._end = b"\n" if self._is_events else b""
        self._length = 0
        self._events = 0

    def feed(self, piece: bytes) -> bytes:
        """The next piece of the body, which is returned. Costs at most a copy of `KEPT` bytes."""
        self._length += len(piece)
        if len(self._beginning) < KEPT:
            self._beginning += piece[: KEPT - len(self._beginning)]
        if self._is_events:
            # The mark may begin in the pieces before, which are too short a part of it to hold a whole one.
            self._events += (self._end[1 - len(_DATA) :] + piece).count(_DATA)
        self._end = piece[-KEPT:] if len(piece) >= KEPT else (self._end + piece)[-KEPT:]
        return piece

    def finish(self) -> bytes:
        """The body is complete; nothing is left."""
        return b""

    @property
    def events(self) -> int:
        """Server-sent events so far; 0 for any other response."""
        return self._events

    def sample(self, *, is_complete: bool = True) -> ResponseSample:
        """Of the pieces so far."""
        return ResponseSample(
            self._status,
            self._content_type,
            self._beginning,
            self._end[-self._length :] if self._length else b"",
            self._length,
            self._events,
            is_complete,
        )

    def __repr__(self) -> str:
        return f"<Sampler [{self._length} bytes]>"


class Work(float):
    """An amount of work that also knows its tokens: what `count_work` may return in place of a number.

    prompt_tokens, generation_tokens: None if the response does not tell them, or nothing that makes sense.
    """

    __slots__ = ("generation_tokens", "prompt_tokens")

    prompt_tokens: int | None
    generation_tokens: int | None

    def __new__(
        cls, amount: float, *, prompt_tokens: int | None = None, generation_tokens: int | None = None
    ) -> Self:
        """amount: in the unit of `count_workload`."""
        work = super().__new__(cls, amount)
        work.prompt_tokens, work.generation_tokens = _count(prompt_tokens), _count(generation_tokens)
        return work


def _count(tokens: int | None) -> int | None:
    """None for what would spoil every sum."""
    return tokens if isinstance(tokens, int) and 0 <= tokens < _MOST_TOKENS else None


#: The work that a 2xx response shows to have been done; None if it does not tell. An author's `count_work`.
Measure = Callable[[ResponseSample], "float | None"]


def measured(measure: Measure, sample: ResponseSample) -> float | None:
    """What `measure` makes of a response; None, and an error in the log, if it fails or makes no sense."""
    try:
        work = measure(sample)
        if work is None or (math.isfinite(work) and work >= 0):
            return work
        logger.error("count_work has returned %r; the workload of the request counts", work)
    except Exception as error:  # noqa: BLE001  an author's code may do anything
        logger.error("count_work failed (%s); the workload of the request counts", located(error))
    return None

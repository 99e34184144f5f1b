"""When a request reached which step. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

#: The key of the environ with a request's `Stopwatch`.
STOPWATCH = "pyworker.stopwatch"
#: The key of the environ with a request's id, for logs and the header `X-Request-Id`.
REQUEST_ID = "pyworker.request_id"


class Stopwatch:
    """The steps of one request, in monotonic seconds; None: not reached. Used by one thread at a time."""

    __slots__ = ("_now", "admitted", "began", "first_byte", "started")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.began = now()
        #: Read, authenticated and admitted.
        self.admitted: float | None = None
        #: Its turn in the queue has come.
        self.started: float | None = None
        #: The model server's response has begun.
        self.first_byte: float | None = None

    def admit(self) -> None:
        self.admitted = self._now()

    def start(self) -> None:
        self.started = self._now()

    def respond(self) -> None:
        self.first_byte = self._now()

    def server_timing(self) -> str:
        """The header field (https://www.w3.org/TR/server-timing/): milliseconds for authentication, in the
        queue, and until the model server's response began, which add up to the total.
        """
        now = self._now()
        admitted = now if self.admitted is None else self.admitted
        started = now if self.started is None else self.started
        began = self.began
        return (
            f"auth;dur={(admitted - began) * 1e3:.3f}, queue;dur={(started - admitted) * 1e3:.3f}, "
            f"first;dur={(now - started) * 1e3:.3f}, total;dur={(now - began) * 1e3:.3f}"
        )

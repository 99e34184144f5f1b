"""What the model server says of itself, for any number of clients, with one probe at a time: `/healthcheck`
and `/metrics/model`.
"""

from __future__ import annotations

import threading
import time

from pyworker.errors import NotReady
from pyworker.lifecycle.probe import HealthProbe, HealthResponse, ProbeFailed
from pyworker.runtime.thread_pool import waiting

#: Seconds for which a response is shared.
MAX_AGE = 1.0
#: Clients that may wait for another client's probe: each of them holds a pool thread.
MAX_WAITING = 8
_SHUTTING_DOWN = "the worker is shutting down"


class SharedHealth:
    """Shares the responses of a probe among clients. Thread-safe.

    If the last response is too old, the next client sends a probe; clients that come meanwhile wait for its
    response. After `close` no client waits.
    """

    def __init__(self, probe: HealthProbe) -> None:
        self._probe = probe
        # Guards everything below; notified at each response and when closed.
        self._changed = threading.Condition()
        self._response: HealthResponse | ProbeFailed = ProbeFailed("")
        self._responded_at: float | None = None
        self._responses = 0
        self._is_asking = False
        self._waiting = 0
        self._is_closed = False

    def get(self) -> HealthResponse:
        """A response that is at most a second old. Raises `ProbeFailed` if there is none, and `NotReady` if
        too many wait already, or the worker shuts down.
        """
        with self._changed:
            if self._is_closed:
                raise NotReady(_SHUTTING_DOWN)
            if self._responded_at is not None and time.monotonic() - self._responded_at < MAX_AGE:
                return _unless_failed(self._response)
            is_first = not self._is_asking
            seen = self._responses
            if is_first:
                self._is_asking = True
            elif self._waiting < MAX_WAITING:
                self._waiting += 1
            else:
                raise NotReady(
                    "a probe is under way, and too many clients wait for it already",
                    retry_after=MAX_AGE,
                )
        with waiting:
            return _unless_failed(self._ask() if is_first else self._wait(seen))

    def close(self) -> None:
        """Abort the probe under way and wake the clients that wait: the worker shuts down. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._probe.close()

    def _ask(self) -> HealthResponse | ProbeFailed:
        response: HealthResponse | ProbeFailed = ProbeFailed("the probe failed")
        try:
            response = self._probe.fetch()
        except ProbeFailed as error:
            response = error
        finally:
            with self._changed:
                self._response, self._responded_at = response, time.monotonic()
                self._responses += 1
                self._is_asking = False
                is_closed = self._is_closed
                self._changed.notify_all()
        if is_closed and isinstance(response, ProbeFailed):
            raise NotReady(_SHUTTING_DOWN)
        return response

    def _wait(self, seen: int) -> HealthResponse | ProbeFailed:
        with self._changed:
            try:
                # No timeout: the probe has its deadline.
                self._changed.wait_for(lambda: self._is_closed or self._responses != seen)
            finally:
                self._waiting -= 1
            if self._is_closed:
                raise NotReady(_SHUTTING_DOWN)
            return self._response

    def __repr__(self) -> str:
        return f"<SharedHealth {self._probe!r} [{self._waiting} waiting]>"


def _unless_failed(response: HealthResponse | ProbeFailed) -> HealthResponse:
    if isinstance(response, ProbeFailed):
        # One of its own for each client: raising changes it.
        raise ProbeFailed(str(response), is_late=response.is_late)
    return response

"""`/healthcheck`: the model server's own health for any number of clients, from one probe at a time."""

from __future__ import annotations

import threading
import time

from pyworker.errors import NotReady
from pyworker.probe import HealthAnswer, HealthProbe, ProbeFailed
from pyworker.thread_pool import waiting

#: Seconds for which an answer serves others too.
MAX_AGE = 1.0
#: Clients that may wait for the probe of another: each of them holds a thread of the pool.
MAX_WAITING = 8


class SharedHealth:
    """What the probe says, shared. Thread-safe.

    The first client that needs an answer asks the model server, those that come meanwhile wait for the same
    answer. After `close` nobody waits any more.
    """

    def __init__(self, probe: HealthProbe) -> None:
        self._probe = probe
        # Guards everything below; notified at each answer and when closed.
        self._changed = threading.Condition()
        self._answer: HealthAnswer | str = ""
        self._answered_at: float | None = None
        self._answers = 0
        self._is_asking = False
        self._waiting = 0
        self._is_closed = False

    def get(self) -> HealthAnswer:
        """An answer that is at most a second old; raises `NotReady` if there is none to be had."""
        with self._changed:
            if self._is_closed:
                raise _shutting_down()
            if self._is_fresh():
                return _told(self._answer)
            leads = not self._is_asking
            seen = self._answers
            if leads:
                self._is_asking = True
            elif self._waiting < MAX_WAITING:
                self._waiting += 1
            else:
                raise NotReady(
                    "the model server's health is being asked, and enough clients wait for its answer",
                    retry_after=MAX_AGE,
                )
        with waiting:
            return self._ask() if leads else self._wait(seen)

    def close(self) -> None:
        """End the probe under way and wake those who wait for it: the worker shuts down. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._probe.close()

    def _is_fresh(self) -> bool:
        return self._answered_at is not None and time.monotonic() - self._answered_at < MAX_AGE

    def _ask(self) -> HealthAnswer:
        answer: HealthAnswer | str = "the model server's health cannot be asked"
        try:
            answer = self._probe.fetch()
        except ProbeFailed as error:
            answer = f"the model server's health cannot be asked: {error}"
        finally:
            with self._changed:
                self._answer, self._answered_at = answer, time.monotonic()
                self._answers += 1
                self._is_asking = False
                is_closed = self._is_closed
                self._changed.notify_all()
        if is_closed and isinstance(answer, str):
            raise _shutting_down()
        return _told(answer)

    def _wait(self, seen: int) -> HealthAnswer:
        with self._changed:
            try:
                # Without a timeout, since the probe has its deadline.
                self._changed.wait_for(lambda: self._is_closed or self._answers != seen)
            finally:
                self._waiting -= 1
            if self._is_closed:
                raise _shutting_down()
            return _told(self._answer)

    def __repr__(self) -> str:
        return f"<SharedHealth {self._probe!r} [{self._waiting} waiting]>"


def _told(answer: HealthAnswer | str) -> HealthAnswer:
    if isinstance(answer, str):
        raise NotReady(answer)
    return answer


def _shutting_down() -> NotReady:
    return NotReady("the worker is shutting down")

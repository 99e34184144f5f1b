"""Checks whether the model server is healthy, on a connection of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pyworker.lifecycle.state import Cause, ModelLifecycle, ModelState, ModelStatus

logger = logging.getLogger(__name__)

#: Seconds between two checks.
INTERVAL = 10.0
#: Seconds between two checks while the model loads, if its health says when it is loaded.
LOADING_INTERVAL = 1.0
#: For this many seconds after a suspicion, further suspicions do not cause an extra check.
SUSPICION_GAP = 5.0


class HealthMonitor:
    """Checks a model that should be serving. `step` belongs to one thread; any thread may call `suspect`.

    check: returns why the model server cannot serve, empty if it can. regular: check every `INTERVAL`; False:
    only after a suspicion, and until a failed check is mended. loaded_by: the name of what is checked, if a
    success also means that the model is loaded; until then it is checked more often. wake: makes the next
    step due immediately.
    """

    def __init__(
        self,
        check: Callable[[], str],
        lifecycle: ModelLifecycle,
        failures_allowed: int,
        *,
        regular: bool = True,
        loaded_by: str = "",
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_model = check
        #: Why the last check failed; empty if it did not, or there was none. Replaced as a whole.
        self.problem = ""
        self._lifecycle = lifecycle
        self._failures_allowed = failures_allowed
        self._regular = regular
        self._loaded_by = loaded_by
        self._wake = wake
        self._failures = 0
        # Guards _suspicion and _suspected_at.
        self._lock = threading.Lock()
        self._suspicion = ""
        self._suspected_at: float | None = None

    def _check(self) -> str:
        self.problem = self._check_model()
        return self.problem

    def suspect(self, reason: str) -> bool:
        """There is a sign of an error: if the next check fails too, the model is errored.

        True if that check is due now: for the first of a flood of suspicions.
        """
        now = time.monotonic()
        with self._lock:
            self._suspicion = self._suspicion or reason
            recent = self._suspected_at is not None and now - self._suspected_at < SUSPICION_GAP
            if not recent:
                self._suspected_at = now
        if not recent:
            self._wake()
        return not recent

    def requests_failed(self, reason: str) -> None:
        """Several requests in a row failed: suspect a model that is ready."""
        if self._lifecycle.state is ModelState.READY and self.suspect(reason):
            logger.warning("%s; waiting for a health check to confirm", reason)

    def step(self) -> float:
        """Check once, if the state calls for it. Returns the seconds until the next step."""
        status = self._lifecycle.status
        suspicion = self._take_suspicion()
        if not _should_serve(status) and not (suspicion and status.state is ModelState.BENCHMARKING):
            self._failures = 0
            return self._check_loaded(status) if self._loaded_by else INTERVAL
        if not (suspicion or self._regular or status.cause is Cause.HEALTH):
            return INTERVAL
        problem = self._check()
        if not problem:
            self._failures = 0
            if self._lifecycle.recovered():
                logger.info("the model server is healthy again")
            return INTERVAL
        self._failures += 1
        if self._failures <= self._failures_allowed or self._failures.bit_count() == 1:
            logger.warning("health probe failed (%d in a row): %s", self._failures, problem)
        if suspicion or self._failures >= self._failures_allowed:
            message = f"{problem}; {suspicion}" if suspicion else problem
            self._lifecycle.failed(Cause.HEALTH, message, epoch=status.epoch)
        return INTERVAL if self._regular else LOADING_INTERVAL

    def _take_suspicion(self) -> str:
        with self._lock:
            suspicion, self._suspicion = self._suspicion, ""
        return suspicion

    def _check_loaded(self, status: ModelStatus) -> float:
        if status.awaits_loading and not self._check() and self._lifecycle.loaded(epoch=status.epoch):
            logger.info("the model is loaded: %s is healthy", self._loaded_by)
        return LOADING_INTERVAL


def _should_serve(status: ModelStatus) -> bool:
    return status.state is ModelState.READY or status.cause is Cause.HEALTH

"""Several requests in a row that fail raise the suspicion that the model server is broken."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyworker.errors import PyworkerError
from pyworker.reporting.wire import Outcome

#: Failures without a success in between that raise the suspicion; the same number again raises it again.
FAILURES = 3


class FailureStreak:
    """Counts failures since the last success. Thread-safe; a success costs next to nothing.

    on_suspicion(reason) is called outside the lock for each `FAILURES` in a row; it must not block.
    """

    def __init__(self, on_suspicion: Callable[[str], None]) -> None:
        self._on_suspicion = on_suspicion
        # Guards failures.
        self._lock = threading.Lock()
        #: Since the last success.
        self.failures = 0

    def ended(self, outcome: Outcome | None, error: BaseException | None = None) -> None:
        """Count a request. Cancelled and rejected requests say nothing about the model."""
        if outcome is Outcome.SUCCESS:
            if self.failures:  # read without the lock: a failure at the same moment may be counted or not
                with self._lock:
                    self.failures = 0
        elif outcome is Outcome.ERROR:
            with self._lock:
                self.failures += 1
                failures = self.failures
            if failures % FAILURES == 0:
                self._on_suspicion(f"{failures} requests in a row failed, the last one: {_brief(error)}")


def _brief(error: BaseException | None) -> str:
    if error is None:
        return "the model server responded with an error or broke off its response"
    # Only our own errors are known to contain nothing of the request.
    return str(error) if isinstance(error, PyworkerError) else type(error).__name__

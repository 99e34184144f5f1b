"""What the model's log said before the worker started, and whether it still counts.

The log is read as it is, and may begin with lines of earlier runs of the model. So an old line is only a
hint, for the model server or newer lines to decide.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.state import Cause, ModelLifecycle

logger = logging.getLogger(__name__)

#: Seconds between two tries to have the model server confirm a loaded line.
LOOK_INTERVAL = 1.0
#: Seconds without a new line after which an old error line counts.
PATIENCE = 60.0


class OldLines:
    """Acts on loaded and error lines from before the start. Thread-safe; `step` belongs to one thread.

    A loaded line counts once the model server confirms it: otherwise the model is loading anew, which is no
    error. An error line counts if it was the model's last word: nothing follows it for `PATIENCE` seconds,
    and no loaded line before it is confirmed.

    check: why the model server does not listen, empty if it does; check_strictly: why it cannot serve, asked
    if there is an error line too. tailer: reads the log, if there is one.
    """

    def __init__(
        self,
        lifecycle: ModelLifecycle,
        *,
        check: Callable[[], str],
        check_strictly: Callable[[], str],
        tailer: LogTailer | None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._lifecycle = lifecycle
        self._check = check
        self._check_strictly = check_strictly
        self._tailer = tailer
        self._wake = wake
        # Guards _loaded and _error.
        self._lock = threading.Lock()
        self._loaded = ""
        # An error line after the last loaded line.
        self._error = ""
        # When the old part had been read. Used by `step` only.
        self._read_at: float | None = None

    def loaded(self, line: str) -> None:
        """A loaded line was found."""
        with self._lock:
            self._loaded, self._error = line, ""
        self._wake()

    def failed(self, line: str) -> None:
        """An error line was found."""
        with self._lock:
            self._error = line
        self._wake()

    def forget(self) -> None:
        """A newer line has decided."""
        with self._lock:
            self._loaded = self._error = ""

    @property
    def loaded_line(self) -> str:
        """The loaded line that waits to be decided about; empty if there is none."""
        with self._lock:
            return self._loaded

    @property
    def are_settled(self) -> bool:
        """Whether the log was read up to its end at the start, and no loaded line waits."""
        return self._tailer is None or (self._tailer.glance.is_current and not self.loaded_line)

    def step(self, now: float) -> float | None:
        """Decide if that is possible. Returns seconds until the next step, None: after the next line.

        now: monotonic seconds.
        """
        with self._lock:
            loaded, error = self._loaded, self._error
        if self._tailer is None or not (loaded or error):
            return None
        glance, status = self._tailer.glance, self._lifecycle.status
        if not status.awaits_loading:
            self.forget()
            return None
        if not glance.is_current:
            return LOOK_INTERVAL
        since = self._read_at = now if self._read_at is None else self._read_at
        if loaded and not (self._check_strictly() if error else self._check()):
            self.forget()
            if self._lifecycle.loaded(epoch=status.epoch):
                logger.info("the model is loaded: %s", loaded)
            return None
        if error and glance.new_lines:
            logger.info("the model's log goes on after an error line from before this start: it is ignored")
            self._forget_error(error)
        elif error and now - since >= PATIENCE:
            self._forget_error(error)
            if self._lifecycle.failed(Cause.LOG, error, epoch=status.epoch):
                logger.error("the model failed before this start, and its log does not go on: %s", error)
        return LOOK_INTERVAL

    def _forget_error(self, line: str) -> None:
        with self._lock:
            if self._error == line:
                self._error = ""

    def __repr__(self) -> str:
        loaded, error = "loaded" if self._loaded else "not loaded", "error" if self._error else "no error"
        return f"<OldLines {loaded}, {error}>"

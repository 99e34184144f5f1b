"""Background threads: each is a step function and the loop around it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_CRASH_PAUSE = 1.0
_JOIN_TIMEOUT = 10.0


class Wake(threading.Event):
    """Calling it makes the next step of a loop due now. Made before the loop, for what wakes it."""

    def __call__(self) -> None:
        if not self.is_set():  # setting takes a lock
            self.set()


class Loop:
    """Runs `step` again and again on a thread of its own. Thread-safe.

    `step` returns the seconds until it is due again; None means "only when woken". After each step the loop
    rests for `hold` seconds (or until the step is due, if that is sooner), which only `stop` can cut short.
    So a burst of wake-ups costs one step. A step that raises is logged and retried.

    `on_stop` is called by `stop`, and ends what the step may be blocked in. `on_end` is called on the thread
    after the last step and after `on_stop`, so it may close what `on_stop` writes to.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float | None],
        *,
        wake: Wake | None = None,
        hold: float = 0.0,
        on_stop: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._step = step
        self._hold = hold
        self._on_stop = on_stop
        self._on_end = on_end
        self._stopping = threading.Event()
        # Set after `on_stop`.
        self._is_told = threading.Event()
        #: Makes the next step due now.
        self.wake = wake or Wake()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.wake()
        try:
            self._on_stop()
        finally:
            self._is_told.set()

    def join(self, timeout: float) -> bool:
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Before the step: what changes during it wakes the loop once more.
            self.wake.clear()
            pause = self._guarded(self._step)
            if self._hold:
                self._stopping.wait(self._hold if pause is None else min(self._hold, pause))
            if not self._stopping.is_set():
                self.wake.wait(pause)
        # The last step may have ended before `on_stop` was called.
        self._is_told.wait()
        self._guarded(self._on_end)

    def _guarded(self, step: Callable[[], float | None]) -> float | None:
        try:
            return step()
        except Exception:
            logger.exception("%s failed; retrying in %.0f s", self.name, _CRASH_PAUSE)
            return _CRASH_PAUSE

    def __repr__(self) -> str:
        return f"<Loop {self.name} {'alive' if self._thread.is_alive() else 'not running'}>"


class Runtime:
    """All background threads of one worker process. `start` and `stop` may be called any number of times."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = list(loops)
        # Guards _started and _stopped.
        self._lock = threading.Lock()
        self._started = False
        self._stopped = False

    def add(self, loop: Loop) -> None:
        """One more thread, which is stopped after the others. Before the start."""
        self._loops.append(loop)

    @property
    def is_started(self) -> bool:
        return self._started

    def start(self) -> None:
        """Start every thread; the second call has no effect."""
        with self._lock:
            if self._started:
                return
            self._started = True
        for loop in self._loops:
            loop.start()

    def stop(self, unblock: Callable[[], None] = lambda: None) -> None:
        """Ask every thread to end, and wait for it. unblock: ends what the steps may be blocked in."""
        with self._lock:
            if not self._started or self._stopped:
                return
            self._stopped = True
        for loop in self._loops:
            loop.stop()
        unblock()
        for loop in self._loops:
            if not loop.join(_JOIN_TIMEOUT):
                logger.error("%s did not end within %.0f s", loop.name, _JOIN_TIMEOUT)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "running" if self._started else "not started"
        return f"<Runtime {state} {list(self._loops)!r}>"

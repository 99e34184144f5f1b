"""When the model entered which state, and so how long each phase of the start took."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyworker.lifecycle.state import ModelState

_REMEMBERED = 50


@dataclass(frozen=True)
class Phase:
    """One state, from `since` (epoch seconds) on; reason: of an error, else empty."""

    state: ModelState
    since: float
    reason: str = ""


class Phases:
    """The last states, oldest first. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        # Guards _phases.
        self._lock = threading.Lock()
        self._phases: deque[Phase] = deque([Phase(ModelState.LOADING, now())], maxlen=_REMEMBERED)
        #: Whether it was ever ready. Set once.
        self.was_ready = False

    def enter(self, state: ModelState, reason: str) -> None:
        """The model is in this state now; nothing happens if it was before."""
        if state is ModelState.READY:
            self.was_ready = True
        with self._lock:
            if (self._phases[-1].state, self._phases[-1].reason) != (state, reason):
                self._phases.append(Phase(state, self._now(), reason))

    @property
    def current(self) -> Phase:
        return self._phases[-1]

    def all(self) -> Sequence[Phase]:
        """Oldest first."""
        with self._lock:
            return list(self._phases)

    def __repr__(self) -> str:
        return f"<Phases {self.current.state.value}>"

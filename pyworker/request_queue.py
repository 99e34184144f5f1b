"""First-in-first-out admission to the model. Knows nothing of HTTP.

    slot = queue.enter()     takes a place in line, never blocks
    slot.wait()              until it is this request's turn
    slot.release()           gives the turn, or the place in line, back

A capacity is a thing one holds: `release` may be called any number of times, from any thread, at any stage.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from pyworker.thread_pool import waiting


class Slot:
    """A place in line, later the right to call the model. Thread-safe."""

    def __init__(self, release: Callable[[Slot], None], *, is_exclusive: bool = True) -> None:
        """is_exclusive: whether others may wait for it to be given back."""
        self._release = release
        self.is_exclusive = is_exclusive
        self._turn = threading.Event()

    def grant(self) -> None:
        """Hand the turn to this slot; also wakes it when it was given up."""
        self._turn.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the turn comes (True) or `timeout` seconds passed (False)."""
        if self._turn.is_set():
            return True
        with waiting:
            return self._turn.wait(timeout)

    def release(self) -> None:
        """Give it back; wakes whoever waits for it."""
        self._release(self)
        self._turn.set()


class Admission(ABC):
    """Who may call the model, and when."""

    @abstractmethod
    def enter(self) -> Slot:
        """A place in line, in order of arrival."""


class Unlimited(Admission):
    """Everybody's turn is now: the null queue. Its one slot is for all."""

    def __init__(self) -> None:
        self._slot = Slot(_nothing_to_release, is_exclusive=False)
        self._slot.grant()

    def enter(self) -> Slot:
        return self._slot


def _nothing_to_release(_: Slot) -> None:
    return


class RequestQueue(Admission):
    """At most `concurrency` turns at once, handed on in order of arrival. Thread-safe."""

    def __init__(self, concurrency: int = 1) -> None:
        if concurrency < 1:
            raise ValueError("a queue needs a concurrency of at least 1")
        self._concurrency = concurrency
        # Guards _active and _waiting; a slot is in at most one of them.
        self._lock = threading.Lock()
        self._active: set[Slot] = set()
        self._waiting: deque[Slot] = deque()

    def enter(self) -> Slot:
        slot = Slot(self._leave)
        with self._lock:
            if len(self._active) < self._concurrency:
                self._active.add(slot)
                granted = True
            else:
                self._waiting.append(slot)
                granted = False
        if granted:
            slot.grant()
        return slot

    def _leave(self, slot: Slot) -> None:
        successor: Slot | None = None
        with self._lock:
            if slot in self._active:
                self._active.remove(slot)
                if self._waiting:
                    successor = self._waiting.popleft()
                    self._active.add(successor)
            elif slot in self._waiting:
                self._waiting.remove(slot)
        if successor is not None:
            successor.grant()

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<RequestQueue [{len(self._active)} active, {len(self._waiting)} waiting]>"

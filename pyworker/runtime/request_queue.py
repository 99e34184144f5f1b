"""First-in-first-out admission to the model. Knows nothing of HTTP.

    slot = queue.enter()     joins the queue, never blocks
    slot.wait()              until the slot is granted
    slot.release()           gives it back, or leaves the queue

`release` may be called any number of times, from any thread, at any stage.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from pyworker.runtime.thread_pool import waiting


class Slot:
    """A place in the queue, later the right to call the model. Thread-safe."""

    def __init__(self, release: Callable[[Slot], None], *, is_exclusive: bool = True) -> None:
        """is_exclusive: whether others may wait for it to be given back."""
        self._release = release
        self.is_exclusive = is_exclusive
        self._granted = threading.Event()

    def grant(self) -> None:
        """Let this request call the model; also wakes a waiter whose slot was released."""
        self._granted.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is granted (True) or `timeout` seconds passed (False)."""
        if self._granted.is_set():
            return True
        with waiting:
            return self._granted.wait(timeout)

    def release(self) -> None:
        """Give it back; wakes its waiter."""
        self._release(self)
        if not self._granted.is_set():  # setting takes a lock
            self._granted.set()


class Admission(ABC):
    """Which requests may call the model, and when."""

    @abstractmethod
    def enter(self) -> Slot:
        """A place in the queue, in order of arrival."""


class Unlimited(Admission):
    """Every request may call the model immediately. All share one slot."""

    def __init__(self) -> None:
        self._slot = Slot(lambda _: None, is_exclusive=False)
        self._slot.grant()

    def enter(self) -> Slot:
        return self._slot


class RequestQueue(Admission):
    """At most `concurrency` slots are granted at a time, in order of arrival. Thread-safe."""

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
        """How many requests wait."""
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<RequestQueue [{len(self._active)} active, {len(self._waiting)} waiting]>"

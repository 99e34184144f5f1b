"""Admission to the model, in order of arrival within each priority. Knows nothing of HTTP.

    slot = queue.enter()     joins the queue, never blocks; `queue.of(priority).enter()` with a priority
    slot.wait()              until the slot is granted
    slot.release()           gives it back, or leaves the queue

`release` may be called any number of times, from any thread, at any stage.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from pyworker.runtime.thread_pool import waiting

#: How often in a row those of a higher priority may be granted while one of a lower waits.
MOST_OVERTAKES = 8


class Priority(IntEnum):
    """Which waiting requests are granted first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


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
    """At most `concurrency` slots are granted at a time, those of the highest priority first, each priority
    in order of arrival. Whoever waits is overtaken a bounded number of times. Thread-safe.
    """

    def __init__(self, concurrency: int = 1) -> None:
        if concurrency < 1:
            raise ValueError("a queue needs a concurrency of at least 1")
        self._concurrency = concurrency
        # Guards _active, _waiting and _overtaken; a slot is in at most one of the first two.
        self._lock = threading.Lock()
        self._active: set[Slot] = set()
        self._waiting: dict[Priority, deque[Slot]] = {priority: deque() for priority in Priority}
        # How often a higher priority was granted since this one was, while it waited.
        self._overtaken = dict.fromkeys(Priority, 0)

    def enter(self) -> Slot:
        return self.join(Priority.NORMAL)

    def of(self, priority: Priority) -> Admission:
        """The same queue, for requests of this priority."""
        return self if priority is Priority.NORMAL else _Joining(self, priority)

    def join(self, priority: Priority) -> Slot:
        """As `enter`, with a priority."""
        slot = Slot(self._leave)
        with self._lock:
            if len(self._active) < self._concurrency:
                self._active.add(slot)
                granted = True
            else:
                self._waiting[priority].append(slot)
                granted = False
        if granted:
            slot.grant()
        return slot

    def _leave(self, slot: Slot) -> None:
        successor: Slot | None = None
        with self._lock:
            if slot in self._active:
                self._active.remove(slot)
                successor = self._next()
                if successor is not None:
                    self._active.add(successor)
            else:
                for waiting_slots in self._waiting.values():
                    if slot in waiting_slots:
                        waiting_slots.remove(slot)
        if successor is not None:
            successor.grant()

    def _next(self) -> Slot | None:
        """Take the next slot to be granted. Called under the lock."""
        waiting_now = [priority for priority in Priority if self._waiting[priority]]
        if not waiting_now:
            return None
        starving = (one for one in waiting_now if self._overtaken[one] >= MOST_OVERTAKES)
        chosen = next(starving, waiting_now[0])
        self._overtaken[chosen] = 0
        for lower in waiting_now:
            if lower > chosen:
                self._overtaken[lower] += 1
        return self._waiting[chosen].popleft()

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    def __repr__(self) -> str:
        return f"<RequestQueue [{len(self._active)} active, {self.depth} waiting]>"


class _Joining(Admission):
    """Joins a queue with a priority."""

    def __init__(self, queue: RequestQueue, priority: Priority) -> None:
        self._queue = queue
        self._priority = priority

    def enter(self) -> Slot:
        return self._queue.join(self._priority)

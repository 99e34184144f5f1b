"""Threads for requests: made when they are needed, kept, and the last one used is used again first."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


class ThreadPool(Generic[Item]):
    """Runs `work(item)` for every submitted item on one of at most `limit` threads. Thread-safe.

    The threads do not hold up the end of the process: what is still in hand then was cut.
    """

    def __init__(self, limit: int, work: Callable[[Item], None]) -> None:
        self._limit = limit
        self._work = work
        # Guards the limit, _idle (threads that wait), _backlog (items that wait), _count and _is_closed.
        self._lock = threading.Lock()
        self._idle: list[_Place[Item]] = []
        self._backlog: deque[Item] = deque()
        self._count = 0
        self._is_closed = False

    def submit(self, item: Item) -> None:
        """Have it worked on, in the order of submission where all threads are busy."""
        with self._lock:
            place = self._idle.pop() if self._idle else None
            is_new = place is None and self._count < self._limit
            if is_new:
                self._count += 1
            elif place is None:
                self._backlog.append(item)
        if place is not None:
            place.give(item)
        elif is_new:
            name = f"pyworker-request-{self._count}"
            try:
                threading.Thread(target=self._run, args=(item,), name=name, daemon=True).start()
            except RuntimeError:
                self._make_do()
                self.submit(item)

    def _make_do(self) -> None:
        """The system gives no more threads: go on with those that are here. Raises where there are none."""
        with self._lock:
            self._count -= 1
            self._limit = count = self._count
        if not count:
            raise RuntimeError("not one thread can be made")
        logger.error("no more than %d threads can be made; requests wait for them", count)

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for place in idle:
            place.give(None)

    def _run(self, first: Item) -> None:
        place: _Place[Item] = _Place()
        item: Item | None = first
        while item is not None:
            try:
                self._work(item)
            except Exception:
                logger.exception("a request's thread met an error that nobody handled")
            item = self._next(place)

    def _next(self, place: _Place[Item]) -> Item | None:
        with self._lock:
            if self._backlog:
                return self._backlog.popleft()
            if self._is_closed:
                return None
            self._idle.append(place)
        return place.wait()

    def __repr__(self) -> str:
        busy = self._count - len(self._idle)
        return f"<ThreadPool [{busy} of {self._limit} busy, {len(self._backlog)} waiting]>"


class _Place(Generic[Item]):
    """Where one thread waits for its next item; None: there will be none."""

    def __init__(self) -> None:
        self._given = threading.Lock()
        self._given.acquire()
        self._item: Item | None = None

    def give(self, item: Item | None) -> None:
        self._item = item
        self._given.release()

    def wait(self) -> Item | None:
        self._given.acquire()
        item, self._item = self._item, None
        return item

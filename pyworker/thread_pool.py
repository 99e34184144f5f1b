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
        # Guards _idle (threads that wait), _backlog (items that wait) and _count (of threads).
        self._lock = threading.Lock()
        self._idle: list[_Turn[Item]] = []
        self._backlog: deque[Item] = deque()
        self._count = 0

    def submit(self, item: Item) -> None:
        """Have it worked on, in the order of submission where all threads are busy."""
        with self._lock:
            turn = self._idle.pop() if self._idle else None
            is_new = turn is None and self._count < self._limit
            if is_new:
                self._count += 1
            elif turn is None:
                self._backlog.append(item)
        if turn is not None:
            turn.give(item)
        elif is_new:
            name = f"pyworker-request-{self._count}"
            threading.Thread(target=self._run, args=(item,), name=name, daemon=True).start()

    def _run(self, item: Item) -> None:
        turn: _Turn[Item] = _Turn()
        while True:
            try:
                self._work(item)
            except Exception:
                logger.exception("a request's thread met an error that nobody handled")
            with self._lock:
                has_next = bool(self._backlog)
                if has_next:
                    item = self._backlog.popleft()
                else:
                    self._idle.append(turn)
            if not has_next:
                item = turn.wait()

    def __repr__(self) -> str:
        busy = self._count - len(self._idle)
        return f"<ThreadPool [{busy} of {self._limit} busy, {len(self._backlog)} waiting]>"


class _Turn(Generic[Item]):
    """One thread's place to wait for its next item."""

    def __init__(self) -> None:
        self._given = threading.Lock()
        self._given.acquire()
        self._item: Item | None = None

    def give(self, item: Item) -> None:
        self._item = item
        self._given.release()

    def wait(self) -> Item:
        self._given.acquire()
        item, self._item = self._item, None
        assert item is not None
        return item

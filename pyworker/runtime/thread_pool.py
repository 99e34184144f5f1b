"""Threads for requests, made when they are needed and kept; few of them run at the same time.

An item is begun, in the order of submission, only while fewer than `concurrency` others run. A thread that
waits for something else (`with waiting:`) does not count. One that waits without saying so is detected: if
nothing was begun for 10 ms, `nudge_stalled` begins one more item.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

# Seconds without a beginning after which the running threads are taken for waiting.
_STALL = 0.01
# Seconds until thread creation is tried again after it failed.
_REFUSED = 1.0


class ThreadPool(Generic[Item]):
    """Runs `work(item)` for every submitted item on one of at most `limit` threads. Thread-safe.

    They are daemon threads: what is still in hand at the end of the process was aborted before.
    """

    def __init__(self, limit: int, work: Callable[[Item], None], *, concurrency: int) -> None:
        self._limit = limit
        self._work = work
        self._concurrency = concurrency
        # Guards _idle (where each thread without an item waits for the next; None ends the thread), _backlog
        # (items without a thread), _count (threads), _running (threads with an item that do not wait for
        # something else), _allowed (how many of those there may be now), _begun_at, _no_thread_before
        # (monotonic) and _is_closed.
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Item | None]] = []
        self._backlog: deque[Item] = deque()
        self._count = 0
        self._running = 0
        self._allowed = concurrency
        self._begun_at = 0.0
        self._no_thread_before = 0.0
        self._is_closed = False

    def submit(self, item: Item) -> None:
        """Put this item at the end of the backlog."""
        with self._lock:
            self._backlog.append(item)
            begin = self._next_to_begin()
        begin()

    def submit_first(self, item: Item) -> None:
        """Put this item at the front of the backlog."""
        with self._lock:
            self._backlog.appendleft(item)
            begin = self._next_to_begin()
        begin()

    @property
    def is_behind(self) -> bool:
        """Whether items wait for a thread."""
        with self._lock:
            return bool(self._backlog)

    def nudge_stalled(self) -> float:
        """Begin an item that has waited for too long; returns the seconds until this is due again."""
        with self._lock:
            if not self._backlog or not (self._idle or self._count < self._limit):
                # No thread is free; the next one that is done takes an item by itself.
                return math.inf
            soonest = self._begun_at + _STALL
            left = (soonest if self._idle else max(soonest, self._no_thread_before)) - time.monotonic()
            if left > 0:
                return left
            # The running threads are taken for waiting, until the backlog is empty.
            self._allowed = self._running + 1
            begin = self._next_to_begin()
        begin()
        return _STALL

    def pause(self) -> None:
        """The calling thread, one of this pool, begins to wait for something else."""
        with self._lock:
            self._running -= 1
            begin = self._next_to_begin() if self._backlog else _nothing
        begin()

    def resume(self) -> None:
        """It has finished waiting."""
        with self._lock:
            self._running += 1

    def _next_to_begin(self) -> Callable[[], None]:
        """Under the lock; the caller calls what it returns outside."""
        if not self._backlog or self._running >= self._allowed:
            return _nothing
        if self._idle:
            place = self._idle.pop()
            item = self._take()
            return lambda: place.put(item)
        if self._count >= self._limit or time.monotonic() < self._no_thread_before:
            return _nothing
        self._count += 1
        item = self._take()
        return lambda: self._start(item)

    def _take(self) -> Item:
        self._running += 1
        self._begun_at = time.monotonic()
        return self._backlog.popleft()

    def _start(self, item: Item) -> None:
        name = f"pyworker-request-{self._count}"
        try:
            threading.Thread(target=self._run, args=(item,), name=name, daemon=True).start()
        except RuntimeError:
            self._put_back(item)

    def _put_back(self, item: Item) -> None:
        """Thread creation failed: the item waits for an existing thread, or for the next try."""
        with self._lock:
            self._running -= 1
            self._count -= 1
            count = self._count
            self._no_thread_before = time.monotonic() + _REFUSED
            self._backlog.appendleft(item)
            begin = self._next_to_begin()
        logger.error(
            "thread creation failed: requests wait for the %d existing threads; next try in 1 s", count
        )
        begin()

    def close(self) -> None:
        """Let the threads end once the backlog is empty."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for place in idle:
            place.put(None)

    def _run(self, first: Item) -> None:
        _here.pool = self
        place: SimpleQueue[Item | None] = SimpleQueue()
        item: Item | None = first
        while item is not None:
            try:
                self._work(item)
            except BaseException:
                # SystemExit too: a thread that ended here would be counted as running for ever.
                logger.exception("unhandled exception in a request thread")
            item = self._next(place)

    def _next(self, place: SimpleQueue[Item | None]) -> Item | None:
        with self._lock:
            self._running -= 1
            if not self._backlog:
                self._allowed = self._concurrency
            elif self._running < self._allowed:
                return self._take()
            if self._is_closed:
                return None
            self._idle.append(place)
        return place.get()

    def __repr__(self) -> str:
        busy = self._count - len(self._idle)
        return f"<ThreadPool [{busy} of {self._limit} busy, {len(self._backlog)} waiting]>"


class _Waiting:
    """`with waiting:` around everything that may block on something else. On any thread."""

    def __enter__(self) -> None:
        pool = _here.pool
        if pool is None:
            return
        _here.depth += 1
        if _here.depth == 1:
            pool.pause()

    def __exit__(self, *_: object) -> None:
        pool = _here.pool
        if pool is None:
            return
        _here.depth -= 1
        if _here.depth == 0:
            pool.resume()


class _Here(threading.local):
    """The calling thread's pool, if it belongs to one, and its depth in nested `with waiting:`."""

    pool: ThreadPool[Any] | None = None
    depth = 0


_here = _Here()
waiting = _Waiting()


def _nothing() -> None:
    pass

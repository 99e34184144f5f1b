"""Threads for requests, made when they are needed and kept; few of them run at once.

There is one interpreter. Where many threads want it together, much of their time goes into handing it on,
and who gets it next is chance. So an item is begun, in the order of submission, only while fewer than
`at_once` of the others run. A thread that waits for somebody else (`with waiting:`) does not count
meanwhile: as many items as there are threads may be in hand, as long as they wait.

Who waits without saying so is found out: where nothing was begun for a moment, `nudge_stalled` begins one
more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

# Seconds without a beginning after which those that run are taken for waiting.
_STALL = 0.01
# Seconds until another thread is tried after the system refused one.
_REFUSED = 1.0


class ThreadPool(Generic[Item]):
    """Runs `work(item)` for every submitted item on one of at most `limit` threads. Thread-safe.

    The threads do not hold up the end of the process: what is still in hand then was cut.
    """

    def __init__(self, limit: int, work: Callable[[Item], None], *, at_once: int) -> None:
        self._limit = limit
        self._work = work
        self._at_once = at_once
        # Guards _idle (threads without an item), _backlog (items without a thread), _count,
        # _running (threads with an item that do not wait for somebody else), _allowed (how many of those
        # there may be now), _begun_at, _no_thread_before (monotonic) and _is_closed.
        self._lock = threading.Lock()
        self._idle: list[_Place[Item]] = []
        self._backlog: deque[Item] = deque()
        self._count = 0
        self._running = 0
        self._allowed = at_once
        self._begun_at = 0.0
        self._no_thread_before = 0.0
        self._is_closed = False

    def submit(self, item: Item) -> None:
        """Have it worked on, in the order of submission."""
        with self._lock:
            self._backlog.append(item)
            begin = self._next_to_begin()
        begin()

    def submit_first(self, item: Item) -> None:
        """Have it worked on before all that wait."""
        with self._lock:
            self._backlog.appendleft(item)
            begin = self._next_to_begin()
        begin()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be begun."""
        with self._lock:
            return bool(self._backlog)

    def nudge_stalled(self) -> float:
        """Begin what has waited for too long; the seconds after which to ask again."""
        with self._lock:
            if not self._backlog or not (self._idle or self._count < self._limit):
                # No thread is left to begin with; the next one that is done goes on by itself.
                return math.inf
            soonest = self._begun_at + _STALL
            left = (soonest if self._idle else max(soonest, self._no_thread_before)) - time.monotonic()
            if left > 0:
                return left
            # Those that run are taken for waiting, until nothing is left to begin.
            self._allowed = self._running + 1
            begin = self._next_to_begin()
        begin()
        return _STALL

    def pause(self) -> None:
        """The calling thread of this pool begins to wait for somebody else."""
        with self._lock:
            self._running -= 1
            begin = self._next_to_begin() if self._backlog else _nothing
        begin()

    def resume(self) -> None:
        """It goes on."""
        with self._lock:
            self._running += 1

    def _next_to_begin(self) -> Callable[[], None]:
        """Under the lock; what it returns is to be called outside."""
        if not self._backlog or self._running >= self._allowed:
            return _nothing
        if self._idle:
            place = self._idle.pop()
            item = self._take()
            return lambda: place.give(item)
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
        """The system gives no more threads now: the item waits for one that is there, or for the next try."""
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
        """Let the threads end once they have nothing to do."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for place in idle:
            place.give(None)

    def _run(self, first: Item) -> None:
        _here.pool = self
        place: _Place[Item] = _Place()
        item: Item | None = first
        while item is not None:
            try:
                self._work(item)
            except (
                BaseException
            ):  # SystemExit too: a thread that ended here would be counted as running for ever
                logger.exception("unhandled exception in a request thread")
            item = self._next(place)

    def _next(self, place: _Place[Item]) -> Item | None:
        with self._lock:
            self._running -= 1
            if not self._backlog:
                self._allowed = self._at_once
            elif self._running < self._allowed:
                return self._take()
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


class _Waiting:
    """`with waiting:` around everything on which a request may wait for somebody else. For any thread."""

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
    """Of the calling thread: its pool, where it belongs to one, and how deep it is in `with waiting:`."""

    pool: ThreadPool[Any] | None = None
    depth = 0


_here = _Here()
waiting = _Waiting()


def _nothing() -> None:
    pass

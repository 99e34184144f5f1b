"""Starts requests when they are due, on a pool of threads that grows as needed."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

MAX_THREADS = 8_192
"""With more requests open than this, the next waits for a free thread, and the report says so."""

Send = Callable[[int, float], None]
"""Sends the request of this number, which was due at this monotonic moment; returns when it has ended."""


class Engine(ABC):
    """Sends requests until all are sent or `stop` is called. Any thread may call any method."""

    def __init__(self, send: Send, stopping: threading.Event | None = None) -> None:
        """stopping: set by `stop`, for a `send` that does several things."""
        self._send = send
        self._stopping = stopping or threading.Event()
        self._done = threading.Event()

    @abstractmethod
    def start(self) -> None: ...

    def stop(self) -> None:
        """Start no further requests; those in flight go on."""
        self._stopping.set()

    def wait(self, seconds: float) -> bool:
        """Whether every request has ended; waits at most this many seconds."""
        return self._done.wait(seconds)

    def __repr__(self) -> str:
        state = "done" if self._done.is_set() else "stopping" if self._stopping.is_set() else "running"
        return f"<{type(self).__name__} [{state}]>"


class OpenLoop(Engine):
    """Requests start when they are due, whatever became of the earlier ones."""

    def __init__(
        self,
        send: Send,
        due_times: Iterator[float],
        max_threads: int = MAX_THREADS,
        stopping: threading.Event | None = None,
    ) -> None:
        super().__init__(send, stopping)
        self._due_times = due_times
        self._max_threads = max_threads
        self._jobs: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
        # Guards `_free`: threads that wait for a request, less the requests that wait for a thread.
        self._lock = threading.Lock()
        self._free = 0
        self._threads: list[threading.Thread] = []  # of the scheduler alone
        self._scheduler = threading.Thread(target=self._run, name="pyworker-loadtest-schedule", daemon=True)

    def start(self) -> None:
        self._scheduler.start()

    def _run(self) -> None:
        try:
            self._keep_schedule()
        finally:
            for _ in self._threads:
                self._jobs.put(None)
            for thread in self._threads:
                thread.join()
            self._done.set()

    def _keep_schedule(self) -> None:
        begin = time.monotonic()
        for number, offset in enumerate(self._due_times):
            due = begin + offset
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                break
            with self._lock:
                self._free -= 1
                lacking = self._free < 0
            if lacking and len(self._threads) < self._max_threads:
                self._add_thread()
            self._jobs.put((number, due))

    def _add_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"pyworker-loadtest-{len(self._threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads: the request waits for one of those there are
            self._max_threads = len(self._threads)
            return
        self._threads.append(thread)
        with self._lock:
            self._free += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            number, due = job
            # After a stop, a request that has not started in time is not sent.
            if not self._stopping.is_set():
                self._send(number, due)
            with self._lock:
                self._free += 1


class ClosedLoop(Engine):
    """`users` threads, each sending its next request when the last one has ended."""

    def __init__(
        self,
        send: Send,
        users: int,
        count: int | None,
        duration: float,
        stopping: threading.Event | None = None,
    ) -> None:
        super().__init__(send, stopping)
        self._count = count
        self._duration = duration
        # Guards `_next` and `_active`.
        self._lock = threading.Lock()
        self._next = 0
        self._active = users
        self._threads = [
            threading.Thread(target=self._work, name=f"pyworker-loadtest-{user}", daemon=True)
            for user in range(users)
        ]

    def start(self) -> None:
        self._end = time.monotonic() + self._duration
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (number := self._take()) is not None:
            self._send(number, time.monotonic())
        with self._lock:
            self._active -= 1
            last = self._active == 0
        if last:
            self._done.set()

    def _take(self) -> int | None:
        if self._stopping.is_set() or time.monotonic() >= self._end:
            return None
        with self._lock:
            if self._count is not None and self._next >= self._count:
                return None
            self._next += 1
            return self._next - 1

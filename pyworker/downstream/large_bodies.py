"""Requests whose large bodies have begun: a limit for the threads that read the rest of one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack

from pyworker.downstream.connection import ClientSocket, Stage


class LargeBodies:
    """They get their threads in order of arrival. Belongs to the event loop's thread."""

    def __init__(self, limit: int) -> None:
        """limit: how many threads may be reading one at once."""
        # Acquired here, released by the pool's threads.
        self._threads = threading.Semaphore(limit)
        self._waiting: deque[ClientSocket] = deque()

    def add(self, client: ClientSocket) -> None:
        """It waits for a thread, in the stage QUEUED."""
        self._waiting.append(client)

    def next(self) -> Iterator[ClientSocket]:
        """Each that gets a thread now; its `body_is_read` gives the permit back."""
        while self._waiting and self._threads.acquire(blocking=False):
            client = self._waiting.popleft()
            if client.stage is not Stage.QUEUED:
                self._threads.release()  # it was closed meanwhile
                continue
            permit = ExitStack()
            permit.callback(self._threads.release)
            client.body_is_read = permit.close  # releases it at the first call only
            yield client

    def __repr__(self) -> str:
        return f"<LargeBodies [{len(self._waiting)} waiting]>"

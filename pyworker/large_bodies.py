"""Requests whose large bodies have begun: few threads at once wait for the rest of one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from pyworker.client_socket import ClientSocket, Stage

#: Seconds that a large body may wait for a thread.
LINE_SECONDS = 30.0


class LargeBodies:
    """They get their threads in order of arrival. Belongs to the poller's thread."""

    def __init__(self, limit: int) -> None:
        """limit: how many threads may be reading one at once."""
        # Taken here, given back by the pool's threads.
        self._threads = threading.Semaphore(limit)
        self._waiting: deque[ClientSocket] = deque()

    def add(self, client: ClientSocket) -> None:
        """It waits for its turn, in the stage IN_LINE."""
        self._waiting.append(client)

    def next(self) -> Iterator[ClientSocket]:
        """Each that may have a thread now; its `body_is_read` gives that back."""
        while self._waiting and self._threads.acquire(blocking=False):
            client = self._waiting.popleft()
            if client.stage is not Stage.IN_LINE:
                self._threads.release()  # it was closed meanwhile
                continue
            client.body_is_read = _once(self._threads.release)
            yield client

    def __repr__(self) -> str:
        return f"<LargeBodies [{len(self._waiting)} waiting]>"


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """Does it at the first call. For one thread at a time."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act

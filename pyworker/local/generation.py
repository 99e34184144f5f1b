"""One response of the local model server while it is generated: its slot, its pace, its client."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from pyworker.errors import PyworkerError
from pyworker.runtime.request_queue import RequestQueue

LOOK_SECONDS = 0.1  # how often a waiting request checks that its client is still connected

Item = TypeVar("Item")


class EngineFailure(PyworkerError):
    """The generation broke off on the server's side, because a test ordered it."""


class Ending(Enum):
    """How a generation ended."""

    DONE = "done"
    CUT = "cut"  # the client is gone, or the server stops
    FAILED = "failed"


@dataclass(kw_only=True)
class Generation(Generic[Item]):
    """Items (tokens, most often) at a pace of `pace` seconds each. Used by the thread of its connection only.

    on_end: called once, with the ending, the number of items and the seconds since the request arrived.
    break_after: after so many items it fails.
    """

    source: Iterator[Item]
    pace: float
    queue: RequestQueue
    client: socket.socket
    stopping: threading.Event
    on_end: Callable[[Ending, int, float], None]
    break_after: int | None = None
    count: int = 0

    def items(self) -> Generator[Item]:
        """The items, once the request has a slot. A consumer that stops early closes it, which frees that.

        Raises `ConnectionAbortedError` if the client disconnects, `EngineFailure` if a test ordered that.
        """
        arrived = time.monotonic()
        ending = Ending.CUT  # unless it comes to its end
        slot = self.queue.enter()
        try:
            while not slot.wait(LOOK_SECONDS):
                self._check()
            started = time.monotonic()
            for item in self.source:
                if self.count == self.break_after:
                    raise EngineFailure("the engine failed, as it was ordered to")
                self._wait_until(started + (self.count + 1) * self.pace)
                self.count += 1
                yield item
            ending = Ending.DONE
        except EngineFailure:
            ending = Ending.FAILED
            raise
        finally:
            slot.release()
            self.on_end(ending, self.count, time.monotonic() - arrived)

    def _check(self) -> None:
        if self.stopping.is_set():
            raise ConnectionAbortedError("the server stops")
        if _disconnected(self.client):
            raise ConnectionAbortedError("the client hung up")

    def _wait_until(self, due: float) -> None:
        self._check()
        while (left := due - time.monotonic()) > 0:
            self.stopping.wait(min(left, LOOK_SECONDS))
            self._check()


def _disconnected(connection: socket.socket) -> bool:
    poll = select.poll()
    try:
        poll.register(connection, select.POLLRDHUP)
    except (OSError, ValueError):
        return True  # closed on our side already
    return bool(poll.poll(0))

"""One response of the local model server while it is generated: its slot, its pace, its client."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from pyworker.local.model_log import ModelLog
from pyworker.runtime.request_queue import RequestQueue

LOOK_SECONDS = 0.1  # how often a waiting request checks that its client is still connected


@dataclass(kw_only=True)
class Generation:
    """Tokens at a pace of `pace` seconds each. Used by the thread of its connection only."""

    name: str
    source: Iterator[str]
    pace: float
    queue: RequestQueue
    client: socket.socket
    stopping: threading.Event
    log: ModelLog
    count: int = 0

    def tokens(self) -> Generator[str]:
        """The tokens, once the request has a slot; `ConnectionAbortedError` if the client disconnects."""
        arrived = time.monotonic()
        outcome = "499"  # unless it comes to its end
        slot = self.queue.enter()
        try:
            while not slot.wait(LOOK_SECONDS):
                self._check()
            started = time.monotonic()
            for token in self.source:
                self._wait_until(started + (self.count + 1) * self.pace)
                self.count += 1
                yield token
            outcome = "200"
        finally:
            slot.release()
            seconds = time.monotonic() - arrived
            self.log.write(f"POST {self.name} {outcome}, {self.count} tokens in {seconds:.3f} s")

    def events(self) -> Generator[str]:
        """The tokens as server-sent events."""
        # A client that disconnects closes this generator, which frees the slot.
        with contextlib.closing(self.tokens()) as tokens:
            for token in tokens:
                yield f"data: {json.dumps({'token': token})}\n\n"
        yield "data: [DONE]\n\n"

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

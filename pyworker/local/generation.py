"""One response of the local model server while it is generated: its slot, its pace, its client."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Generator, Iterator

from pyworker.local.model_log import ModelLog
from pyworker.runtime.request_queue import RequestQueue

LOOK_SECONDS = 0.1  # how often a request that waits looks whether its client is still there


class Generation:
    """Tokens at a pace of `pace` seconds each. Used by the thread of its connection only."""

    def __init__(
        self,
        *,
        name: str,
        source: Iterator[str],
        pace: float,
        queue: RequestQueue,
        client: socket.socket,
        stopping: threading.Event,
        log: ModelLog,
    ) -> None:
        self.count = 0
        self._name = name
        self._source = source
        self._pace = pace
        self._queue = queue
        self._client = client
        self._stopping = stopping
        self._log = log

    def tokens(self) -> Generator[str]:
        """The tokens, once the request has a slot; `ConnectionAbortedError` if the client has
        disconnected.
        """
        arrived = time.monotonic()
        outcome = "499"  # unless it comes to its end
        slot = self._queue.enter()
        try:
            while not slot.wait(LOOK_SECONDS):
                self._check()
            started = time.monotonic()
            for token in self._source:
                self._wait_until(started + (self.count + 1) * self._pace)
                self.count += 1
                yield token
            outcome = "200"
        finally:
            slot.release()
            seconds = time.monotonic() - arrived
            self._log.write(f"POST {self._name} {outcome}, {self.count} tokens in {seconds:.3f} s")

    def events(self) -> Generator[str]:
        """The tokens as server-sent events."""
        # A client that hangs up closes this generator: the slot is free at once.
        with contextlib.closing(self.tokens()) as tokens:
            for token in tokens:
                yield f"data: {json.dumps({'token': token})}\n\n"
        yield "data: [DONE]\n\n"

    def _check(self) -> None:
        if self._stopping.is_set():
            raise ConnectionAbortedError("the server stops")
        if _client_is_gone(self._client):
            raise ConnectionAbortedError("the client hung up")

    def _wait_until(self, due: float) -> None:
        self._check()
        while (left := due - time.monotonic()) > 0:
            self._stopping.wait(min(left, LOOK_SECONDS))
            self._check()

    def __repr__(self) -> str:
        return f"<Generation {self._name} [{self.count} tokens]>"


def _client_is_gone(connection: socket.socket) -> bool:
    """Whether the client closed its side."""
    poll = select.poll()
    try:
        poll.register(connection, select.POLLRDHUP)
    except (OSError, ValueError):
        return True  # closed on our side already
    return bool(poll.poll(0))

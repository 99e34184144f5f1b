"""A worker with a known service time and a known stall, which stamps all it does: the truth."""

from __future__ import annotations

import heapq
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import flask
from typing_extensions import Self

from pyworker.local.serving import LocalServer
from tests.support.waiting import DEADLINE


@dataclass
class Stamp:
    """Monotonic moments of one request. ended: when its response was ready, then when it was written."""

    number: int
    arrived: float
    ended: float

    def written(self) -> None:
        self.ended = time.monotonic()


class TimedWorker:
    """Responds to `/generate` after `service` seconds. Sends none for `stall` seconds, beginning `stall_at`
    seconds after the first request. A cleared `gate` holds every response. Any thread may call any method.

    With `slots` it serves so many at a time and the others queue: slots / service is its capacity per second.
    """

    def __init__(
        self, service: float = 0.0, stall_at: float = 0.0, stall: float = 0.0, slots: int | None = None
    ) -> None:
        self.status = 200
        self.body = '{"detail": "as told"}'
        self.gate = threading.Event()
        self.gate.set()
        self._service = service
        self._stall_at = stall_at
        self._stall = stall
        # Guards the fields below.
        self._lock = threading.Lock()
        self._first: float | None = None
        self._free = None if slots is None else [0.0] * slots  # a heap: when each slot is free again
        self._open = 0
        self.most_open = 0
        self.stamps: list[Stamp] = []
        self.envelopes: list[dict[str, Any]] = []
        app = flask.Flask("worker")
        app.add_url_rule("/generate", view_func=self._generate, methods=["POST"])
        self._server = LocalServer(app, name="timed-worker")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.gate.set()
        self._server.stop()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def stall_begin(self) -> float:
        assert self._first is not None
        return self._first + self._stall_at

    @property
    def stall_end(self) -> float:
        return self.stall_begin + self._stall

    def numbers(self) -> list[int]:
        """The `number` of each payload, in the order in which they ended."""
        with self._lock:
            return [stamp.number for stamp in self.stamps]

    def _generate(self) -> flask.Response:
        arrived = time.monotonic()
        envelope = json.loads(flask.request.get_data())
        with self._lock:
            self._first = arrived if self._first is None else self._first
            self._open += 1
            self.most_open = max(self.most_open, self._open)
            self.envelopes.append(envelope)
            begin = arrived
            if self._free is not None:
                begin = max(arrived, heapq.heappop(self._free))
                heapq.heappush(self._free, begin + self._service)
        ready = begin + self._service
        if self.stall_begin <= ready < self.stall_end:
            ready = self.stall_end
        threading.Event().wait(max(0.0, ready - time.monotonic()))
        assert self.gate.wait(DEADLINE)
        with self._lock:
            self._open -= 1
            number = int(envelope.get("payload", envelope).get("number", 0))
            stamp = Stamp(number, arrived, time.monotonic())
            self.stamps.append(stamp)
        response = flask.Response(self.body, self.status, mimetype="application/json")
        response.call_on_close(stamp.written)
        return response

    def __repr__(self) -> str:
        with self._lock:
            return f"<TimedWorker {self.url} [{self._open} open, {len(self.stamps)} ended]>"

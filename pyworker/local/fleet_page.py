"""The page of a local autoscaler at `/`, and what it shows as server-sent events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response

from pyworker.local.fleet import Fleet
from pyworker.resources.page import page
from pyworker.runtime import server_sent_events

_INTERVAL = 1.0


class FleetPage:
    """The routes. Any thread may call any method."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stopping = threading.Event()

    def add_to(self, app: Flask) -> None:
        app.add_url_rule("/", view_func=self._page)
        app.add_url_rule("/events", view_func=self._events)

    def start(self) -> None:
        """Let streams go on."""
        self._stopping.clear()

    def stop(self) -> None:
        """End the streams."""
        self._stopping.set()

    def _page(self) -> Response:
        body, fields = page("fleet")
        return Response(body, headers=fields)

    def _events(self) -> Response:
        fields = server_sent_events.HEADERS
        return Response(self._pieces(), headers=fields, content_type=server_sent_events.CONTENT_TYPE)

    def _pieces(self) -> Iterator[bytes]:
        while not self._stopping.is_set():
            shown = overview(self._fleet)
            for worker in shown["workers"]:
                del worker["working_request_idxs"]  # a busy worker has a thousand of them
            yield server_sent_events.event("fleet", shown)
            self._stopping.wait(_INTERVAL)


def overview(fleet: Fleet) -> dict[str, Any]:
    """The fleet as JSON for people."""
    now = time.monotonic()
    return {
        "workers": [member.overview(now) for member in fleet.workers()],
        "requests": fleet.requests_seen,
        "routed": fleet.routes_given,
        "finished": fleet.finished_counts,
        "now": round(time.time(), 3),
    }

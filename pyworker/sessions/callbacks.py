"""Notifies the model server that a session was closed, if its client asked for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

import requests

from pyworker.errors import PyworkerError
from pyworker.runtime.timed_http import timed_session
from pyworker.sessions.store import Session
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.client import ModelClient
from pyworker.upstream.encoding import encode

logger = logging.getLogger(__name__)

#: Deadline of one callback in seconds.
TIMEOUT = 10.0
#: Deadline in seconds for all callbacks that are left when the worker ends.
_LAST_SECONDS = 5.0


class Callbacks:
    """POSTs `on_close_payload` to `on_close_route`, once. Any thread may call `add`, one thread the rest."""

    def __init__(self, client: ModelClient, on_add: Callable[[], None]) -> None:
        self._client = client
        self._on_add = on_add
        self._session = timed_session()
        self._waiting: queue.SimpleQueue[Session] = queue.SimpleQueue()

    def add(self, session: Session) -> None:
        """Queue the callback of a closed session. Never blocks."""
        if session.terms.on_close_route is not None:
            self._waiting.put(session)
            self._on_add()

    def step(self) -> None:
        """Send the queued callbacks."""
        while not self._waiting.empty():
            self._post(self._waiting.get(), TIMEOUT)

    def flush(self, seconds: float = _LAST_SECONDS) -> None:
        """Send the queued callbacks before the worker ends, within a deadline of `seconds` for all."""
        deadline = time.monotonic() + seconds
        while not self._waiting.empty():
            # A timeout of 0 would be an error.
            self._post(self._waiting.get(), max(deadline - time.monotonic(), 0.001))

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def _post(self, session: Session, seconds: float) -> None:
        route = session.terms.on_close_route or ""
        body: dict[str, object] = {**(session.terms.on_close_payload or {}), "session_id": session.id}
        try:
            status = self._send(route, body, seconds)
        except (Aborted, requests.exceptions.Timeout):
            logger.warning("session callback: no response within %.0f s", seconds)
        except (PyworkerError, requests.exceptions.RequestException) as error:
            reason = error if isinstance(error, PyworkerError) else type(error).__name__
            logger.warning("session callback failed: %s", reason)
        else:
            logger.info("session callback: status %d", status)

    def _send(self, route: str, body: dict[str, object], seconds: float) -> int:
        """POST one callback. Returns the status of the response."""
        if route.startswith(("/", f"{self._client.base_url}/")):
            return self._send_to_model_server(route, body, seconds)
        # Another server of this machine: it must not get MODEL_API_KEY.
        data, headers = encode(body), {"Content-Type": "application/json"}
        limits = (seconds, seconds)
        with self._session.post(
            route, data=data, headers=headers, timeout=limits, allow_redirects=False, stream=True
        ) as response:
            return response.status_code

    def _send_to_model_server(self, route: str, body: dict[str, object], seconds: float) -> int:
        call = ModelCall()
        # The socket's timeout alone would not end a response that trickles.
        limit = threading.Timer(seconds, call.abort)
        limit.name = "pyworker-callback-limit"
        limit.start()
        try:
            with self._client.post(route, body, call, timeout=TIMEOUT) as response:
                return response.status_code
        finally:
            limit.cancel()
            limit.join()

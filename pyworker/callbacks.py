"""Tells the model server that a session is over, where its client asked for that."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

import requests

from pyworker.call import Aborted, ModelCall
from pyworker.encoding import encode
from pyworker.errors import PyworkerError
from pyworker.model_client import ModelClient
from pyworker.sessions import Session
from pyworker.timed_http import timed_session

logger = logging.getLogger(__name__)

#: Seconds for one callback, whatever the model server does.
TIMEOUT = 10.0
#: Seconds for all that are left when the worker ends.
_LAST_SECONDS = 5.0


class Callbacks:
    """POSTs `on_close_payload` to `on_close_route`, once. Any thread may `add`; the rest is one thread's."""

    def __init__(self, client: ModelClient, on_add: Callable[[], None]) -> None:
        self._client = client
        self._on_add = on_add
        self._session = timed_session()
        self._waiting: queue.SimpleQueue[Session] = queue.SimpleQueue()

    def add(self, session: Session) -> None:
        """This session is over. Never blocks."""
        if session.terms.on_close_route is not None:
            self._waiting.put(session)
            self._on_add()

    def step(self) -> None:
        """Send what waits."""
        while not self._waiting.empty():
            self._post(self._waiting.get(), TIMEOUT)

    def flush(self) -> None:
        """Send what waits, in the little time that is left at the end."""
        deadline = time.monotonic() + _LAST_SECONDS
        while not self._waiting.empty():
            self._post(self._waiting.get(), max(deadline - time.monotonic(), 0.0))

    def close(self) -> None:
        """Close the connections that are kept."""
        self._session.close()

    def _post(self, session: Session, seconds: float) -> None:
        route = session.terms.on_close_route or ""
        body: dict[str, object] = {**(session.terms.on_close_payload or {}), "session_id": session.id}
        try:
            status = self._ask(route, body, seconds)
        except (Aborted, requests.exceptions.Timeout):
            logger.warning("session over: no answer to its callback in %.0f s", seconds)
        except (PyworkerError, requests.exceptions.RequestException) as error:
            reason = error if isinstance(error, PyworkerError) else type(error).__name__
            logger.warning("session over: its callback failed: %s", reason)
        else:
            logger.info("session over: the server answered %d to its callback", status)

    def _ask(self, route: str, body: dict[str, object], seconds: float) -> int:
        """The status of the answer."""
        model_server = self._client.base_url
        path = route.removeprefix(model_server) if route.startswith(f"{model_server}/") else route
        if path.startswith("/"):
            return self._ask_model_server(path, body, seconds)
        # To some other server of this machine, so without the key of the model server.
        data, headers = encode(body), {"Content-Type": "application/json"}
        limits = (seconds, seconds)
        with self._session.post(
            route, data=data, headers=headers, timeout=limits, allow_redirects=False, stream=True
        ) as answer:
            return answer.status_code

    def _ask_model_server(self, route: str, body: dict[str, object], seconds: float) -> int:
        call = ModelCall()
        # A timeout of the socket's alone would let an answer trickle for ever.
        limit = threading.Timer(seconds, call.abort)
        limit.name = "pyworker-callback-limit"
        limit.start()
        try:
            with self._client.post(route, body, call, timeout=TIMEOUT) as answer:
                return answer.status_code
        finally:
            limit.cancel()
            limit.join()

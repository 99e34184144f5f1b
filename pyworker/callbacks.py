"""Tells the model server that a session is over, where its client asked for that."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from pyworker.connection import Aborted, ModelCall
from pyworker.errors import PyworkerError
from pyworker.model_client import ModelClient
from pyworker.sessions import Session

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

    def _post(self, session: Session, seconds: float) -> None:
        route = session.terms.on_close_route or ""
        body = {**(session.terms.on_close_payload or {}), "session_id": session.id}
        call = ModelCall()
        # A timeout of the socket's alone would let an answer trickle for ever.
        limit = threading.Timer(seconds, call.abort)
        limit.name = "pyworker-callback-limit"
        limit.start()
        try:
            with self._client.post(route, body, call, timeout=TIMEOUT) as answer:
                logger.info("session over: the model server answered %d to its callback", answer.status_code)
        except Aborted:
            logger.warning("session over: no answer of the model server to its callback in %.0f s", seconds)
        except PyworkerError as error:
            logger.warning("session over: its callback failed: %s", error)
        finally:
            limit.cancel()
            limit.join()

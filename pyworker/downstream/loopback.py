"""A second, plain port for the model server on this machine. Reachable from nowhere else."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

from pyworker.downstream.acceptor import Listener

logger = logging.getLogger(__name__)

_BACKLOG = 128


class LoopbackPort:
    """A port of 127.0.0.1 for `app`. Belongs to the event loop's thread.

    A port that is taken is tried until it is free: soon, if an earlier process only finishes its requests.
    """

    def __init__(self, app: Any, port: int) -> None:
        self._app = app
        self._port = port
        self._is_open = False
        self._was_taken = False

    def open_if_free(self) -> Iterator[Listener]:
        """The listener, once the port is free; once only. Never blocks."""
        if self._is_open:
            return
        try:
            # A restart takes the port over from connections that have ended, as `create_server` does.
            sock = socket.create_server(("127.0.0.1", self._port), backlog=_BACKLOG)
        except OSError as error:
            if not self._was_taken:
                logger.warning(
                    "the model server cannot end sessions through port %d (%s): tried until it is free; "
                    "WORKER_HTTP_PORT names another",
                    self._port,
                    error.strerror,
                )
            self._was_taken = True
            return
        self._is_open = True
        if self._was_taken:
            logger.info("port %d is free now: the model server can end sessions through it", self._port)
        # In a drain too the model server may end the sessions of requests that go on.
        yield Listener(sock, self._app, outlives_drain=True)

    def __repr__(self) -> str:
        return f"<LoopbackPort {self._port}{'' if self._is_open else ', not open'}>"

"""A second, plain port for the model server on this machine. Reachable from nowhere else."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from pyworker.downstream.acceptor import Listener

logger = logging.getLogger(__name__)

_BACKLOG = 128


def open_when_free(app: Any, port: int) -> Iterator[Sequence[Listener]]:
    """The listener for `app` on this port of 127.0.0.1 once the port is free, and nothing at each try before.

    A port that is taken is free soon if an earlier process only finishes its requests. Never blocks.
    """
    was_taken = False
    while True:
        try:
            # A restart takes the port over from connections that have ended, as `create_server` does.
            sock = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
            break
        except OSError as error:
            if not was_taken:
                logger.warning(
                    "the model server cannot end sessions through port %d (%s): tried until it is free; "
                    "WORKER_HTTP_PORT names another",
                    port,
                    error.strerror,
                )
            was_taken = True
        yield ()
    if was_taken:
        logger.info("port %d is free now: the model server can end sessions through it", port)
    # In a drain too the model server may end the sessions of requests that go on.
    yield [Listener(sock, app, outlives_drain=True)]

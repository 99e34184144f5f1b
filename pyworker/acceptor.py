"""New connections: taken from the listening sockets, and left in their backlog while there is no room."""

from __future__ import annotations

import errno
import logging
import select
import time
from collections.abc import Callable, Iterable
from typing import Any

from pyworker.client_socket import set_options

logger = logging.getLogger(__name__)

_PAUSE = 1.0
_AT_ONCE = 64
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """The listening sockets of one process. Belongs to the poller's thread, and never blocks."""

    def __init__(
        self, epoll: select.epoll, has_room: Callable[[], bool], welcome: Callable[[Any, Any, Any], None]
    ) -> None:
        """welcome: take this connection, from this address, to this address of ours."""
        self._epoll = epoll
        self._has_room = has_room
        self._welcome = welcome
        # Descriptor -> listener with its address.
        self._listeners: dict[int, tuple[Any, Any]] = {}
        self._is_accepting = False
        self._again_at = 0.0

    def listen(self, listeners: Iterable[Any]) -> None:
        """Accept from these; have epoll tell of them."""
        for listener in listeners:
            set_options(listener)
            self._listeners[listener.fileno()] = listener, listener.getsockname()
        self._accept_or_not(True)

    def _accept_or_not(self, wanted: bool) -> None:
        if wanted == self._is_accepting:
            return
        for descriptor in self._listeners:
            if wanted:
                self._epoll.register(descriptor, select.EPOLLIN)
            else:
                self._epoll.unregister(descriptor)
        self._is_accepting = wanted

    def accept_from(self, descriptor: int) -> None:
        """Take who waits there; without effect where this is no listener."""
        listener, own_address = self._listeners.get(descriptor, (None, None))
        if listener is None:
            return
        for _ in range(_AT_ONCE):
            if not self._has_room():
                self._pause("as many are connected as there may be")
                return
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error.strerror)
                return
            self._welcome(connection, address, own_address)

    def _pause(self, reason: str | None) -> None:
        logger.error("no new clients for %g s: %s", _PAUSE, reason)
        self._again_at = time.monotonic() + _PAUSE
        self._accept_or_not(False)

    def resume_if_due(self, now: float) -> None:
        """Go on after a pause."""
        if not self._is_accepting and now >= self._again_at:
            self._accept_or_not(True)

    def close(self) -> None:
        """Refuse new clients from now on."""
        self._accept_or_not(False)
        for listener, _ in self._listeners.values():
            listener.close()
        self._listeners = {}

    def __repr__(self) -> str:
        return f"<Acceptor [{len(self._listeners)} listeners]{'' if self._is_accepting else ' paused'}>"

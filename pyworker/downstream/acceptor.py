"""Listening sockets: new connections are accepted, or left in the backlog while there is no room."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyworker.downstream.connection import SEND_SECONDS

logger = logging.getLogger(__name__)

WrapTls = Callable[[socket.socket], ssl.SSLSocket]

_PAUSE = 1.0
_ACCEPTS_PER_EVENT = 64
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SEND_TIMEOUT = struct.pack("ll", SEND_SECONDS, 0)  # struct timeval
# A client that vanished silently (its host lost power, a NAT forgot it) is detected after two minutes: the
# first probe after 60 s of silence, then one each 15 s, four in all.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
#: Bytes of a response that may wait in the kernel for a client that does not read. The default is megabytes
#: for each, and a few hundred such clients would leave no memory to the connections of all others.
_UNSENT_BYTES = 256 * 1024


@dataclass(eq=False)
class Listener:
    """A listening socket, and what its connections have in common. Belongs to the event loop's thread."""

    sock: Any
    #: The WSGI app that its requests are for.
    app: Any
    wrap_tls: WrapTls | None = None
    #: Whether a drain leaves it and its connections as they are.
    outlives_drain: bool = False
    #: Of its connections, once they are drained: when their last request must have arrived (monotonic).
    drain_until: float = math.inf

    def __post_init__(self) -> None:
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()

    @property
    def is_draining(self) -> bool:
        """Whether its connections are kept only for requests that have begun."""
        return self.drain_until < math.inf

    def set_options(self) -> None:
        """For all its connections, which inherit it: bound how long and how much of a response may wait, and
        detect clients that vanished.
        """
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        with contextlib.suppress(OSError):  # a Unix socket
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
            for level, option, value in _KEEPALIVE:
                self.sock.setsockopt(level, option, value)


class Acceptor:
    """The listeners of one process. Belongs to the event loop's thread, and never blocks."""

    def __init__(
        self, epoll: select.epoll, has_room: Callable[[], bool], welcome: Callable[[Any, Any, Listener], None]
    ) -> None:
        """welcome: take this connection, from this address, accepted from this listener."""
        self._epoll = epoll
        self._has_room = has_room
        self._welcome = welcome
        # Descriptor -> listener.
        self._listeners: dict[int, Listener] = {}
        self._is_accepting = True
        self._resume_at = 0.0

    def listen(self, listener: Listener) -> None:
        """Accept from this one as well."""
        listener.set_options()
        self._listeners[listener.sock.fileno()] = listener
        if self._is_accepting:
            self._epoll.register(listener.sock.fileno(), select.EPOLLIN)

    def accept_from(self, descriptor: int) -> None:
        """Accept the connections that wait there; without effect if this is no listener."""
        listener = self._listeners.get(descriptor)
        if listener is None:
            return
        for _ in range(_ACCEPTS_PER_EVENT):
            if not self._has_room():
                self._pause("the limit of connections is reached and all are in use")
                return
            try:
                connection, address = listener.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error.strerror)
                return
            self._welcome(connection, address, listener)

    def _pause(self, reason: str | None) -> None:
        logger.error("no new connections are accepted for %g s: %s", _PAUSE, reason)
        self._resume_at = time.monotonic() + _PAUSE
        self._is_accepting = False
        for descriptor in self._listeners:
            self._epoll.unregister(descriptor)

    def resume_if_due(self, now: float) -> None:
        """Accept again after a pause."""
        if not self._is_accepting and now >= self._resume_at:
            self._is_accepting = True
            for descriptor in self._listeners:
                self._epoll.register(descriptor, select.EPOLLIN)

    def drain(self, until: float) -> None:
        """Close the listeners, but for those that outlive a drain. Connections of the others have until then
        to send a request that has begun.
        """
        for listener in list(self._listeners.values()):
            if not listener.outlives_drain:
                listener.drain_until = until
                self._close(listener)

    def close(self) -> None:
        """Refuse new connections from now on."""
        for listener in list(self._listeners.values()):
            self._close(listener)

    def _close(self, listener: Listener) -> None:
        descriptor = listener.sock.fileno()
        del self._listeners[descriptor]
        if self._is_accepting:
            self._epoll.unregister(descriptor)  # closing does not, since gunicorn's master has the socket too
        listener.sock.close()

    def __repr__(self) -> str:
        return f"<Acceptor [{len(self._listeners)} listeners]{'' if self._is_accepting else ' paused'}>"

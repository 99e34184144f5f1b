"""One connection to the model server, and a call on it that any thread may abort."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading

from pyworker import nowait
from pyworker.answer import Answer
from pyworker.thread_pool import waiting

# Above this, joining head and body costs more than the second system call.
_JOIN_BELOW = 64 * 1024
_CONNECT_TIMEOUT = 10.0


class Aborted(Exception):
    """The call was ended by `ModelCall.abort`."""


class StaleConnection(Exception):
    """A reused connection broke before it returned a byte: nothing was executed on it."""


class ModelCall:
    """One call to the model server, which any thread may abort. Thread-safe."""

    def __init__(self) -> None:
        # Guards _socket and _aborted.
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    @property
    def aborted(self) -> bool:
        return self._aborted

    def attach(self, connection: socket.socket | None) -> None:
        """From now on the call runs on this socket (None: on none). Raises `Aborted` where it is too late."""
        with self._lock:
            self._socket = connection
            if self._aborted and connection is not None:
                raise Aborted

    def abort(self) -> None:
        """End the call: a thread blocked on its socket wakes with an error at once."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                # Under the lock, so that the socket cannot go back to the pool in between; never blocks.
                _shutdown(self._socket)


def _shutdown(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already gone, which is what was wanted
        connection.shutdown(socket.SHUT_RDWR)


class Connection:
    """A TCP connection to the model server. Used by one thread at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        with waiting:
            self.socket = socket.create_connection(address, timeout=_CONNECT_TIMEOUT)
        self._timeout: float | None = _CONNECT_TIMEOUT
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reused = False

    def exchange(self, method: str, head: bytes, body: bytes, timeout: float | None) -> Answer:
        """Send a request and read the head of its answer; raises OSError or `http.client.HTTPException`."""
        if timeout != self._timeout:  # a system call even where nothing changes
            self.socket.settimeout(timeout)
            self._timeout = timeout
        answer = Answer(self.socket, method)
        try:
            self._send(head, body)
            answer.begin()
        except (ConnectionError, http.client.RemoteDisconnected) as error:
            if self.reused and not answer.received:
                raise StaleConnection from error
            raise
        return answer

    def _send(self, head: bytes, body: bytes) -> None:
        if len(body) <= _JOIN_BELOW:
            nowait.send_all(self.socket, head + body)
        else:
            nowait.send_all(self.socket, head)
            nowait.send_all(self.socket, body)

    @property
    def is_idle(self) -> bool:
        """Open, and silent as a connection between two requests should be."""
        return nowait.is_silent(self.socket.fileno())

    def close(self) -> None:
        self.socket.close()

"""A call to the model server, as any thread may abort it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import ClassVar


class Aborted(Exception):
    """The call was ended by `ModelCall.abort` or `ModelCall.hang_up`."""


class ModelCall:
    """One call to the model server. Thread-safe."""

    #: Whether the end of the call is awaited for a while, even if no other request waits for it.
    outlasts_hang_up: ClassVar[bool] = False

    def __init__(self) -> None:
        # Guards _socket and aborted.
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.aborted = False

    def attach(self, connection: socket.socket | None) -> None:
        """From now on the call uses this socket (None: no socket). Raises `Aborted` if it is aborted."""
        with self._lock:
            self._socket = connection
            if self.aborted and connection is not None:
                raise Aborted

    def abort(self) -> bool:
        """End the call: a thread that is blocked on its socket wakes up with an error. True if there is a
        connection.
        """
        return self._shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> bool:
        """Half-close the connection, so that the model server notices and ends the call itself.

        True if there is a connection: reading the response to its end waits for the model server.
        """
        return self._shutdown(socket.SHUT_WR)

    def _shutdown(self, how: int) -> bool:
        with self._lock:
            self.aborted = True
            if self._socket is None:
                return False
            # Under the lock, so that the socket cannot return to the pool meanwhile; never blocks.
            with contextlib.suppress(OSError):  # the connection has ended already
                # Not SSLSocket.shutdown, which drops the TLS state that another thread is using.
                socket.socket.shutdown(self._socket, how)
            return True

    def __repr__(self) -> str:
        place = "" if self._socket is None else " on a connection"
        return f"<ModelCall{place}{' aborted' if self.aborted else ''}>"

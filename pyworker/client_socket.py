"""One client's connection: reading without blocking for the poller, blocking for a thread of the pool.

A plain socket always stays in blocking mode, and the poller reads with MSG_DONTWAIT: no mode to switch
between two requests. TLS cannot do that, so there the mode changes with the owner.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from pyworker.disconnect import Presence
from pyworker.framing import Framing, Verdict
from pyworker.heads import KnownHead
from pyworker.nowait import Receiver, send_all
from pyworker.thread_pool import waiting

READ_SIZE = 64 * 1024
#: Seconds after which a client that takes nothing of its answer is given up.
SEND_SECONDS = 60
_SEND_TIMEOUT = struct.pack("ll", SEND_SECONDS, 0)  # struct timeval


class Stage(Enum):
    """Where a connection stands. In every stage but WORKING it belongs to the poller."""

    HANDSHAKE = "in a TLS handshake"
    HEAD = "sending a head"
    BODY = "sending a body"
    UNREAD = "not reading answers"
    IN_LINE = "in line with a large body"
    WORKING = "in the pool"
    IDLE = "idle"
    LINGERING = "lingering"
    CLOSED = "closed"


class ClientSocket:
    """A connection and what has been read of its next request. Belongs to one thread at a time."""

    def __init__(self, connection: socket.socket, address: Any, server: Any, framing: Framing) -> None:
        self.sock = connection
        self.descriptor = connection.fileno()
        self.address = address
        self.server = server
        self.framing = framing
        #: The head of its last request, and what every request of this connection has in its environ.
        self.head: KnownHead | None = None
        self.environ: Mapping[str, Any] = {}
        self.verdict = Verdict.MORE
        self.stage = Stage.HEAD
        self.deadline = 0.0
        #: What epoll tells of it; 0 before it is registered.
        self.armed_for = 0
        #: Whether epoll told something in vain, while the connection was in the pool.
        self.stirred = False
        self.presence = Presence()
        self.may_still_send = 0
        #: To be called once the rest of a large body needs no thread any more; any number of times.
        self.body_is_read: Callable[[], None] = _nothing
        self._tls: ssl.SSLSocket | None = None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)

    @property
    def is_tls(self) -> bool:
        return self._tls is not None

    @property
    def needs_a_look(self) -> bool:
        """Whether there may be something to read that epoll has told of already, or cannot tell of."""
        return self.stirred or self.presence.is_gone or self._tls is not None

    # -- for the poller: nothing blocks ------------------------------------------------------------------

    def start_tls(self, connection: ssl.SSLSocket) -> None:
        """Speak TLS from now on; the handshake is still to be made."""
        self.sock = self._tls = connection
        self.stage = Stage.HANDSHAKE

    def shake_hands(self) -> None:
        """Go on with the handshake; raises `SSLWantReadError` or `SSLWantWriteError` until it is done."""
        assert self._tls is not None
        self._tls.do_handshake()

    def receive(self, receiver: Receiver) -> bytes | None:
        """What is here, None for nothing yet, empty at the end of the connection; raises OSError."""
        if self._tls is None:
            return receiver.receive(self.descriptor)
        try:
            return self._tls.recv(receiver.size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def send_now(self, data: bytes) -> None:
        """Send these few bytes if that is possible at once."""
        with contextlib.suppress(OSError):
            self.sock.send(data, 0 if self._tls is not None else socket.MSG_DONTWAIT)

    def discard(self) -> bool:
        """Take in what a client sends after the end; whether to wait for more of it. Raises OSError."""
        try:
            count = len(self.sock.recv(READ_SIZE, socket.MSG_DONTWAIT))  # TLS has ended already
        except BlockingIOError:
            return True
        self.may_still_send -= count
        return count > 0 and self.may_still_send > 0

    # -- between the two ---------------------------------------------------------------------------------

    def enter_pool(self) -> None:
        """From here on reading and writing block."""
        if self._tls is not None:
            # SO_SNDTIMEO means nothing to it: it would try again for ever.
            self._tls.settimeout(SEND_SECONDS)

    def leave_pool(self) -> bytes:
        """From here on nothing blocks. What TLS has read ahead: it would not make the socket readable."""
        if self._tls is None:
            return b""
        self._tls.settimeout(0)
        pending = b""
        while count := self._tls.pending():
            pending += self._tls.recv(count)
        return pending

    def send_all(self, data: bytes) -> None:
        """On a thread of the pool; raises OSError where the client does not take it in time."""
        if self._tls is None:
            send_all(self.sock, data)
        else:
            with waiting:
                self._tls.sendall(data)

    def read_within(self, size: int, seconds: float) -> bytes:
        """On a thread of the pool: some of a body; raises OSError where nothing comes in time."""
        self.sock.settimeout(seconds)
        try:
            with waiting:
                return self.sock.recv(size)
        finally:
            self.sock.settimeout(None if self._tls is None else SEND_SECONDS)

    def say_goodbye(self) -> None:
        """Tell the client that nothing more comes; it may still send. From whichever thread owns it."""
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
                self._tls.settimeout(0)
                self._tls.unwrap()  # never waits for the client's own goodbye
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Wake a thread that is blocked in reading or writing; from any thread."""
        with contextlib.suppress(OSError):
            # Not the method of SSLSocket, which takes the TLS state away from under that thread.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def __repr__(self) -> str:
        return f"<ClientSocket {self.descriptor} {self.stage.value} {self.framing!r}>"


def _nothing() -> None:
    pass

"""One client's connection: reading without blocking for the poller, blocking for a thread of the pool.

A plain socket always stays in blocking mode, and the poller reads with MSG_DONTWAIT. TLS cannot do that: it
never blocks, and a thread of the pool waits by `poll`. So there is no mode to switch between two requests.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from pyworker.framing import Framing, Verdict
from pyworker.heads import KnownHead
from pyworker.nowait import Receiver, is_silent, send, send_all
from pyworker.thread_pool import waiting
from pyworker.wsgi_extensions import Presence

Argument = TypeVar("Argument")
Result = TypeVar("Result")

READ_SIZE = 64 * 1024
_RECORDS_AT_ONCE = 256
#: Seconds after which a client that takes nothing of its answer is given up.
SEND_SECONDS = 60
# What TLS was once asked to send it must be asked again, or more; so more than the relay asks for.
_TLS_SHARE = 2 * READ_SIZE
_RESET = struct.pack("ii", 1, 0)  # struct linger: on, for no time
_SEND_TIMEOUT = struct.pack("ll", SEND_SECONDS, 0)  # struct timeval
# A client that vanished without a word (its host lost power, a NAT forgot it) is gone after two minutes: the
# first probe after 60 s of silence, then one each 15 s, four in all.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
#: Bytes per second that a request has to arrive with on average, after a first allowance.
BYTES_PER_SECOND = 64 * 1024
#: Bytes of an answer that may wait in the kernel for a client that does not read. Without a bound it takes
#: megabytes of each, and a few hundred such clients leave no memory to the connections of all others.
UNSENT_BYTES = 256 * 1024


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
        #: When it entered its stage, and when it must have left it (monotonic).
        self.since = time.monotonic()
        self.deadline = 0.0
        #: Whether to close it with a reset, and no goodbye.
        self.is_cut = False
        #: Whether it is among those that got their share of an event and have more.
        self.is_unfinished = False
        #: Bytes of unfinished requests that the poller's budget was charged for it.
        self.charged = 0
        #: Whether it is among those that may be closed to make room in memory.
        self.is_listed = False
        #: What epoll tells of it; 0 before it is registered.
        self.armed_for = 0
        #: Whether epoll told something in vain, while the connection was in the pool.
        self.stirred = False
        self.presence = Presence()
        self.may_still_send = 0
        #: To be called once the rest of a large body needs no thread any more; any number of times.
        self.body_is_read: Callable[[], None] = _nothing
        self._tls: ssl.SSLSocket | None = None
        # Whether TLS may hold the rest of a record. `receive` asks for more than one has; and to ask TLS lets
        # go of the interpreter.
        self._is_ahead = False

    @property
    def is_tls(self) -> bool:
        return self._tls is not None

    @property
    def rank(self) -> float:
        """The lower, the sooner it makes room for others: since when it has been of no use, in seconds of the
        monotonic clock; each `BYTES_PER_SECOND` bytes that it has sent make up for a second.
        """
        return self.since + self.framing.size / BYTES_PER_SECOND

    @property
    def needs_a_look(self) -> bool:
        """Whether there may be something to read that epoll has told of already."""
        if self._tls is None:
            return self.stirred or self.presence.is_gone
        # TLS takes one record at a time and leaves the next one in the socket.
        return not is_silent(self.descriptor)

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

    # -- for the relay: nothing blocks -------------------------------------------------------------------

    def send_what_fits(self, data: bytes) -> int:
        """How many of these bytes were taken at once; raises OSError."""
        if self._tls is None:
            return send(self.descriptor, data)
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    # -- between the two ---------------------------------------------------------------------------------

    def leave_pool(self) -> bytes:
        """What TLS has read ahead: it would not make the socket readable. Raises OSError."""
        pending = b""
        if self._tls is not None and self._is_ahead:
            self._is_ahead = False
            while count := self._tls.pending():
                pending += self._tls.recv(count)
        return pending

    # -- for a thread of the pool: it may block ------------------------------------------------------------

    def send_all(self, data: bytes) -> None:
        """Raises OSError where the client does not take it in time."""
        if self._tls is None:
            send_all(self.sock, data, SEND_SECONDS)
            return
        view, sent = memoryview(data), 0
        while sent < len(data):
            # In shares, each with the whole time: TLS tells only of a share's end that its client takes it.
            sent += self._patiently(self._tls.send, view[sent : sent + _TLS_SHARE], SEND_SECONDS)

    def read_within(self, size: int, seconds: float) -> bytes:
        """Some of a body; raises OSError where nothing comes in time."""
        if self._tls is not None:
            return self._read_records(self._tls, size, seconds)
        self.sock.settimeout(seconds)
        try:
            with waiting:
                return self.sock.recv(size)
        finally:
            self.sock.settimeout(None)

    def _read_records(self, tls: ssl.SSLSocket, size: int, seconds: float) -> bytes:
        """What has arrived, record by record: what reads it pays for each piece, however small."""
        pieces = [self._patiently(tls.recv, size, seconds)]
        left = size - len(pieces[0])
        with contextlib.suppress(OSError):  # nothing more for now; a broken connection shows at the next read
            while left and pieces[-1] and len(pieces) < _RECORDS_AT_ONCE:
                pieces.append(tls.recv(left))
                left -= len(pieces[-1])
        self._is_ahead = left == 0
        return b"".join(pieces)

    def _patiently(self, act: Callable[[Argument], Result], argument: Argument, seconds: float) -> Result:
        """`act`, as soon as TLS can do it; raises TimeoutError where that is not within so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return act(argument)
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            poll = select.poll()
            poll.register(self.descriptor, events)
            with waiting:
                if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                    raise TimeoutError("the client was too slow")

    def reset_at_close(self) -> None:
        """The response has no end of its own but the connection's, and was cut: that must not look like its
        end. From the thread that owns it.
        """
        self.is_cut = True
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def say_goodbye(self) -> None:
        """Tell the client that nothing more comes; it may still send. From whichever thread owns it."""
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
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


def set_options(listener: Any) -> None:
    """For all that this socket accepts, which inherit it: bound how long and how much an answer may wait, and
    notice clients that vanished.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
    with contextlib.suppress(OSError):  # no TCP, but a socket in the file system
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        for level, option, value in _KEEPALIVE:
            listener.setsockopt(level, option, value)


def _nothing() -> None:
    pass

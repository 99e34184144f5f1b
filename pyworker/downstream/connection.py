"""One client's connection: reading without blocking for the event loop, blocking for a thread of the pool.

A plain socket always stays in blocking mode, and the event loop reads with MSG_DONTWAIT. TLS cannot do that:
its socket never blocks, and a thread of the pool waits by `poll`. So no mode is switched between two
requests.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from pyworker.downstream.framing import Framing, Verdict
from pyworker.runtime.limits import READ_SIZE
from pyworker.runtime.nonblocking import Receiver, is_silent, send, send_all
from pyworker.runtime.thread_pool import waiting
from pyworker.wsgi_extensions import Presence

if TYPE_CHECKING:
    from pyworker.downstream.acceptor import Listener
    from pyworker.downstream.head_cache import CachedHead

Argument = TypeVar("Argument")
Result = TypeVar("Result")

#: TLS records that one read takes at most, however small they are.
_RECORDS_PER_READ = 256
#: Seconds after which a client that takes nothing of its response is given up.
SEND_SECONDS = 60
# A TLS send that was not finished must be repeated with the same bytes or more; so more than the relay sends.
_TLS_SHARE = 2 * READ_SIZE
_RESET = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s
#: Bytes per second with which a request has to arrive on average, after a first allowance.
BYTES_PER_SECOND = 64 * 1024


class Stage(Enum):
    """Where a connection stands. In every stage but WORKING it belongs to the event loop's thread."""

    HANDSHAKE = "in a TLS handshake"
    HEAD = "sending a header block"
    BODY = "sending a body"
    BLOCKED = "blocked on write"
    QUEUED = "waiting for a thread with a large body"
    WORKING = "in the pool"
    IDLE = "idle"
    LINGERING = "lingering"
    CLOSED = "closed"

    # Enum's own is a function of Python, and slow; members are compared by identity anyway.
    __hash__ = object.__hash__


_ENDS = frozenset({Stage.LINGERING, Stage.CLOSED})
_GETS_THREAD = _ENDS | {Stage.QUEUED, Stage.WORKING}
#: The stages that may follow each.
_NEXT: dict[Stage, frozenset[Stage]] = {
    Stage.HANDSHAKE: _ENDS | {Stage.HEAD},
    Stage.HEAD: _GETS_THREAD | {Stage.BODY},
    Stage.BODY: _GETS_THREAD,
    Stage.BLOCKED: _GETS_THREAD,
    Stage.QUEUED: _ENDS | {Stage.WORKING},
    Stage.WORKING: _ENDS | {Stage.HEAD, Stage.BODY, Stage.BLOCKED, Stage.IDLE},
    Stage.IDLE: _GETS_THREAD | {Stage.HEAD, Stage.BODY},
    Stage.LINGERING: frozenset({Stage.CLOSED}),
    Stage.CLOSED: frozenset(),
}


class ClientSocket:
    """A connection and what has been received of its next request. Belongs to one thread at a time."""

    def __init__(self, connection: socket.socket, address: Any, listener: Listener, framing: Framing) -> None:
        self.sock = connection
        self.descriptor = connection.fileno()
        self.address = address
        self.listener = listener
        self.framing = framing
        #: The header block of its last request, if that is cached, and what every request of this connection
        #: has in its environ.
        self.head: CachedHead | None = None
        self.environ: Mapping[str, Any] = {}
        self.verdict = Verdict.MORE
        self.stage = Stage.HEAD
        #: When it entered its stage, and when it must have left it (monotonic).
        self.since = time.monotonic()
        self.deadline = math.inf
        #: Whether to close it with a reset, since its response was cut.
        self.is_cut = False
        #: Whether it got its share of an event and has more to be read.
        self.is_unfinished = False
        #: Bytes of unfinished requests that the memory budget was charged for it.
        self.charged = 0
        #: Whether it may be closed to make room in memory.
        self.is_listed = False
        #: The events epoll watches; 0 before it is registered.
        self.armed_for = 0
        #: Whether epoll reported an event while the connection was in the pool.
        self.readable_while_busy = False
        self.presence = Presence()
        self.may_still_send = 0
        #: To be called once a thread need not wait for the rest of a large body; any number of times.
        self.body_is_read: Callable[[], object] = lambda: None
        self._tls: ssl.SSLSocket | None = None
        # Whether TLS may hold the rest of a record. `receive` asks for more than a record has, so only
        # `read_within` sets this; `pending` releases the GIL.
        self._is_ahead = False

    @property
    def is_tls(self) -> bool:
        return self._tls is not None

    @property
    def rank(self) -> float:
        """The lower, the sooner it is closed to make room: the time since when it has been of no use
        (monotonic); each `BYTES_PER_SECOND` bytes that it has sent make up for a second.
        """
        return self.since + self.framing.size / BYTES_PER_SECOND

    @property
    def may_be_readable(self) -> bool:
        """Whether something may have arrived that epoll has reported already."""
        if self._tls is None:
            return self.readable_while_busy or self.presence.is_gone
        # TLS takes one record at a time and leaves the next one in the socket.
        return not is_silent(self.descriptor)

    @property
    def has_begun(self) -> bool:
        """Whether a request has begun to arrive, or a response is on its way."""
        return self.stage is not Stage.IDLE and (self.stage is not Stage.HEAD or self.framing.size > 0)

    def enter(self, stage: Stage, seconds: float = math.inf) -> None:
        """Go on to this stage, to be left within this many seconds. On the thread that owns the
        connection.
        """
        if stage is self.stage:
            return
        if stage not in _NEXT[self.stage]:
            raise RuntimeError(f"a connection cannot go from {self.stage.name} to {stage.name}")
        if stage is not Stage.WORKING:
            self.since = time.monotonic()
            self.expire_in(seconds)
        # Last: from here on the event loop may close it when its deadline has passed.
        self.stage = stage

    def expire_in(self, seconds: float) -> None:
        """Set the deadline: seconds after it entered its stage."""
        deadline, limit = self.since + seconds, self.listener.drain_until
        self.deadline = deadline if deadline < limit else limit

    # -- for the event loop: nothing blocks --------------------------------------------------------------

    def start_tls(self, connection: ssl.SSLSocket) -> None:
        """Speak TLS from now on; the handshake is still to be made."""
        self.sock = self._tls = connection
        self.stage = Stage.HANDSHAKE

    def shake_hands(self) -> None:
        """Continue the handshake; raises `SSLWantReadError` or `SSLWantWriteError` until it is done."""
        assert self._tls is not None
        self._tls.do_handshake()

    def receive(self, receiver: Receiver) -> bytes | None:
        """What has arrived, None for nothing, empty at the end of the connection; raises OSError."""
        if self._tls is None:
            return receiver.receive(self.descriptor)
        try:
            return self._tls.recv(receiver.size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def send_now(self, data: bytes) -> None:
        """Send these few bytes if that is possible without waiting."""
        with contextlib.suppress(OSError):
            self.sock.send(data, 0 if self._tls is not None else socket.MSG_DONTWAIT)

    def discard(self) -> bool:
        """Drop what a client sends after the end; whether to wait for more of it. Raises OSError."""
        try:
            count = len(self.sock.recv(READ_SIZE, socket.MSG_DONTWAIT))  # TLS has ended already
        except BlockingIOError:
            return True
        self.may_still_send -= count
        return count > 0 and self.may_still_send > 0

    # -- for the relay: nothing blocks -------------------------------------------------------------------

    def send_what_fits(self, data: bytes) -> int:
        """How many of these bytes were sent without waiting; raises OSError."""
        if self._tls is None:
            return send(self.descriptor, data)
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    # -- on the way from the pool to the event loop ------------------------------------------------------

    def take_pending(self) -> bytes:
        """What TLS has read ahead: it would not make the socket readable. Raises OSError."""
        pending = b""
        if self._tls is not None and self._is_ahead:
            self._is_ahead = False
            while count := self._tls.pending():
                pending += self._tls.recv(count)
        return pending

    # -- for a thread of the pool: it may block ----------------------------------------------------------

    def send_all(self, data: bytes) -> None:
        """Raises OSError if the client takes nothing for `SEND_SECONDS`."""
        if self._tls is None:
            send_all(self.sock, data, SEND_SECONDS)
            return
        view, sent = memoryview(data), 0
        while sent < len(data):
            # In shares, each with the whole time: TLS shows progress only at the end of a share.
            sent += self._wait_until(self._tls.send, view[sent : sent + _TLS_SHARE], SEND_SECONDS)

    def read_within(self, size: int, seconds: float) -> bytes:
        """Some of a body; raises OSError if nothing arrives in time."""
        if self._tls is not None:
            return self._read_records(self._tls, size, seconds)
        self.sock.settimeout(seconds)
        try:
            with waiting:
                return self.sock.recv(size)
        finally:
            self.sock.settimeout(None)

    def _read_records(self, tls: ssl.SSLSocket, size: int, seconds: float) -> bytes:
        """What has arrived, in one piece: the parser has a cost for each piece, however small."""
        pieces = [self._wait_until(tls.recv, size, seconds)]
        left = size - len(pieces[0])
        with contextlib.suppress(OSError):  # nothing more yet; a broken connection shows at the next read
            while left and pieces[-1] and len(pieces) < _RECORDS_PER_READ:
                pieces.append(tls.recv(left))
                left -= len(pieces[-1])
        self._is_ahead = left == 0
        return b"".join(pieces)

    def _wait_until(self, act: Callable[[Argument], Result], argument: Argument, seconds: float) -> Result:
        """Call `act` until TLS can do it; raises TimeoutError after this many seconds."""
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
        """Have the connection end with a reset: nothing else shows that a response was cut."""
        self.is_cut = True
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    # -- the end -----------------------------------------------------------------------------------------

    def end_output(self) -> None:
        """End the output; the client may still send. On the thread that owns it."""
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()  # never waits for the client's own close_notify
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Wake a thread that is blocked in reading or writing; from any thread."""
        with contextlib.suppress(OSError):
            # Not the method of SSLSocket, which would drop the TLS state under that thread.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def __repr__(self) -> str:
        return f"<ClientSocket {self.descriptor} {self.stage.value} {self.framing!r}>"

"""One connection to the model server, and a call on it that any thread may abort."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import sys
import threading

from pyworker import nowait
from pyworker.answer import Aborted, Answer
from pyworker.origin import Origin
from pyworker.thread_pool import waiting

# Above this, joining header block and body costs more than the second system call.
_JOIN_BELOW = 64 * 1024
# What is handed to the kernel at once: while it takes it, nobody looks whether the model server answers.
_SHARE = 256 * 1024
_PIECE = 64 * 1024
# What TLS sends as a whole, so that to wait for it is soon over.
_RECORD = 16 * 1024

# struct tcp_info of Linux: the state is its first byte, and tcpi_bytes_acked has 64 bits.
_INFO_SIZE = 128
_BYTES_ACKED_AT = 120
# The beginning of a connection counts as a byte.
_SYN = 1
_STATE_CLOSED = 7
#: Milliseconds for the peer's refusal of bytes that came after its end; over loopback it is there at once.
_REFUSAL_MS = 1000


class StaleConnection(Exception):
    """The model server had closed a reused connection before the request came: nothing was executed."""


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
        """From now on the call runs on this socket (None: on none). Raises `Aborted` if it is too late."""
        with self._lock:
            self._socket = connection
            if self._aborted and connection is not None:
                raise Aborted

    def abort(self) -> None:
        """End the call: a thread blocked on its socket wakes with an error at once."""
        self._shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> bool:
        """End our side of the call, and leave it to the model server to end the other.

        True if there is another side to wait for: whoever reads the response, even in vain, sees its end.
        """
        return self._shutdown(socket.SHUT_WR)

    def _shutdown(self, how: int) -> bool:
        with self._lock:
            self._aborted = True
            if self._socket is None:
                return False
            # Under the lock, so that the socket cannot go back to the pool in between; never blocks.
            with contextlib.suppress(OSError):  # already gone, which is what was wanted
                # Not the method of SSLSocket, which takes the TLS state away from under its thread.
                socket.socket.shutdown(self._socket, how)
            return True

    def __repr__(self) -> str:
        where = "" if self._socket is None else " on a connection"
        return f"<ModelCall{where}{' aborted' if self._aborted else ''}>"


class Connection:
    """A connection to the model server, plain or TLS. Used by one thread at a time.

    It is made for `call`, which can be aborted while it is made. Raises OSError, `Aborted`.
    """

    def __init__(self, origin: Origin, call: ModelCall) -> None:
        self.socket = origin.connect(call.attach)
        self._timeout = self.socket.gettimeout()
        self.reused = False
        # Bytes of the requests that were sent to their end.
        self._sent = 0

    def exchange(
        self, method: str, head: bytes, body: bytes, timeout: float | None, call: ModelCall
    ) -> Answer:
        """Send a request and read the header block of its response.

        timeout: seconds without any progress of the sending, and then for the whole header block. Raises
        OSError, `http.client.HTTPException`, `Aborted`, or `StaleConnection`.
        """
        if timeout != self._timeout:  # a system call even if nothing changes
            self.socket.settimeout(timeout)
            self._timeout = timeout
        answer = Answer(self.socket, method, lambda: call.aborted)
        before = self._acknowledged_at_most() if self.reused else None
        broken: OSError | None = None
        try:
            self._send(head, body, answer)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            # It may have said why.
            broken = error
        try:
            answer.begin()
        except http.client.RemoteDisconnected as error:
            # After a reset the kernel's figures prove nothing, and TLS does not tell a reset from an end.
            if broken is not None and (answer.is_tls or not isinstance(broken, BrokenPipeError)):
                raise broken from None
            if before is not None and self._was_refused(before):
                raise StaleConnection from error
            raise
        if broken is not None:
            answer.will_close = True
        self._sent += len(head) + len(body)
        return answer

    # -- sending -----------------------------------------------------------------------------------------

    def _send(self, head: bytes, body: bytes, answer: Answer) -> None:
        """All of it, unless the model server answers early with a refusal."""
        for part in (head + body,) if len(body) <= _JOIN_BELOW else (head, body):
            sent = 0
            if len(part) <= nowait.COPY_SIZE and not isinstance(self.socket, ssl.SSLSocket):
                sent = nowait.send(self.socket.fileno(), part)
            elif len(part) <= _RECORD:
                with waiting:
                    sent = self.socket.send(part)
            if sent < len(part) and not self._send_watching(memoryview(part)[sent:], answer):
                answer.will_close = True
                return

    def _send_watching(self, data: memoryview, answer: Answer) -> bool:
        """Send as the model server takes it; False if it has refused the request meanwhile.

        A response that is no refusal may come early as well: then the rest is sent, and what else comes stays
        in the kernel.
        """
        # poll takes milliseconds in 32 bits.
        limit_ms = None if self._timeout is None else min(self._timeout * 1000, 2**31 - 1)
        poll = select.poll()
        listens = not answer.has_begun
        wanted = select.POLLOUT | (select.POLLIN if listens else 0)
        poll.register(self.socket, wanted)
        # Neither sending nor receiving may wait here, which is the poll's.
        self.socket.settimeout(0)
        try:
            with waiting:
                while data:
                    events = poll.poll(limit_ms)
                    if not events:
                        raise TimeoutError("the model server took nothing of the request")
                    happened = events[0][1]
                    if listens and happened & select.POLLIN and self._has_answered(answer):
                        if answer.head.status >= 300:
                            return False
                        listens = False
                        poll.modify(self.socket, select.POLLOUT)
                    elif happened & ~select.POLLIN:
                        data = data[self._send_some(data) :]
            return True
        finally:
            self.socket.settimeout(self._timeout)

    def _send_some(self, data: memoryview) -> int:
        try:
            return self.socket.send(data[:_SHARE])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _has_answered(self, answer: Answer) -> bool:
        """Whether what has come is a final response. Raises an error if it is the end."""
        try:
            data = self.socket.recv(_PIECE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not data:
            raise BrokenPipeError("the model server closed the connection")
        return answer.take_early(data)

    # -- whether the model server ever saw a request ---------------------------------------------------------

    def _acknowledged_at_most(self) -> int | None:
        """How many bytes the peer can have acknowledged by now; None if nobody knows."""
        if isinstance(self.socket, ssl.SSLSocket):
            # How many bytes its records have only the kernel knows.
            return _acknowledged(_tcp_info(self.socket))
        return self._sent + _SYN

    def _was_refused(self, before: int) -> bool:
        """After an end without a response: whether the peer had closed before it got any byte of the request.

        before: how many bytes it can have acknowledged before. The peer's kernel acknowledges what it takes
        for its program; once the program has closed, it takes nothing and resets the connection.
        """
        if not _is_at_most(before, _tcp_info(self.socket)):
            return False
        poll = select.poll()
        poll.register(self.socket, 0)
        with waiting:
            poll.poll(_REFUSAL_MS)  # for POLLHUP
        after = _tcp_info(self.socket)
        return _is_at_most(before, after) and after[0] == _STATE_CLOSED

    @property
    def is_idle(self) -> bool:
        """Open, and silent as a connection between two requests should be."""
        return nowait.is_silent(self.socket.fileno())

    def close(self) -> None:
        self.socket.close()


def _tcp_info(connection: socket.socket) -> bytes:
    """What the kernel knows of the connection; empty if it does not tell."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
    except OSError:
        return b""


def _acknowledged(info: bytes) -> int | None:
    """Bytes that the peer has acknowledged, that of the connection's beginning included."""
    if len(info) < _INFO_SIZE:
        return None
    return int.from_bytes(info[_BYTES_ACKED_AT : _BYTES_ACKED_AT + 8], sys.byteorder)


def _is_at_most(before: int, info: bytes) -> bool:
    acknowledged = _acknowledged(info)
    return acknowledged is not None and acknowledged <= before

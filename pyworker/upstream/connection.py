"""One connection to the model server: sending a request while watching for an early response."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import sys

from pyworker.runtime import nonblocking
from pyworker.runtime.limits import READ_SIZE
from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.call import ModelCall
from pyworker.upstream.origin import Origin
from pyworker.upstream.response_reader import ResponseReader

# Bytes of a body; above this, joining it to the header block costs more than a second system call.
_JOIN_BELOW = 64 * 1024
# Bytes passed to the kernel at once; between two of these sends, an early response is noticed.
_SEND_SIZE = 256 * 1024
# Bytes of the largest TLS record, which is sent as a whole.
_RECORD = 16 * 1024

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# struct tcp_info of Linux up to tcpi_bytes_acked, which has 64 bits; the state is its first byte.
_INFO_SIZE = 128
_BYTES_ACKED_AT = 120
# The SYN counts as one acknowledged byte.
_SYN = 1
_STATE_CLOSED = 7
#: Milliseconds to wait for the peer's reset after it closed; over loopback it arrives immediately.
_REFUSAL_MS = 1000


class StaleConnection(Exception):
    """The model server closed a reused connection before it received the request: nothing was executed."""


class Connection:
    """A connection to the model server, plain or TLS. Used by one thread at a time."""

    def __init__(self, origin: Origin, call: ModelCall) -> None:
        """Connects; `call` can be aborted meanwhile. Raises OSError, `Aborted`."""
        self.socket = origin.connect(call.attach)
        self._timeout = self.socket.gettimeout()
        self.reused = False
        # Bytes of all requests that were sent completely.
        self._sent = 0

    def exchange(
        self, method: str, header_block: bytes, body: bytes, timeout: float | None, call: ModelCall
    ) -> ResponseReader:
        """Send a request and read the header block of its response.

        timeout: seconds without progress while sending, and then for the whole header block. Raises OSError,
        `http.client.HTTPException`, `Aborted`, or `StaleConnection`.
        """
        if timeout != self._timeout:  # a system call even if nothing changes
            self.socket.settimeout(timeout)
            self._timeout = timeout
        reader = ResponseReader(self.socket, method, call)
        before = self._acknowledged_at_most() if self.reused else None
        broken: OSError | None = None
        try:
            self._send(header_block, body, reader)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            broken = error  # a response may have arrived before
        try:
            reader.begin()
        except http.client.RemoteDisconnected as error:
            # After a reset the kernel's counters prove nothing, and TLS does not distinguish reset and close.
            if broken is not None and (reader.is_tls or not isinstance(broken, BrokenPipeError)):
                raise broken from None
            if before is not None and self._was_refused(before):
                raise StaleConnection from error
            raise
        if broken is not None:
            reader.will_close = True
        self._sent += len(header_block) + len(body)
        return reader

    # -- sending -----------------------------------------------------------------------------------------

    def _send(self, header_block: bytes, body: bytes, reader: ResponseReader) -> None:
        """Send everything, unless a refusal arrives early."""
        for part in (header_block + body,) if len(body) <= _JOIN_BELOW else (header_block, body):
            sent = 0
            if len(part) <= nonblocking.COPY_SIZE and not isinstance(self.socket, ssl.SSLSocket):
                sent = nonblocking.send(self.socket.fileno(), part)
            elif len(part) <= _RECORD:
                with waiting:
                    sent = self.socket.send(part)
            if sent < len(part) and not self._send_watching(memoryview(part)[sent:], reader):
                reader.will_close = True
                return

    def _send_watching(self, data: memoryview, reader: ResponseReader) -> bool:
        """Send while watching for an early response; False if that refuses the request (status 300 or above).

        After any other early response the rest is sent, and its further bytes stay in the kernel.
        """
        # poll takes milliseconds as a 32-bit integer.
        limit_ms = None if self._timeout is None else min(self._timeout * 1000, 2**31 - 1)
        poll = select.poll()
        listens = not reader.has_begun
        wanted = select.POLLOUT | (select.POLLIN if listens else 0)
        poll.register(self.socket, wanted)
        # Only the poll waits.
        self.socket.settimeout(0)
        try:
            with waiting:
                while data:
                    events = poll.poll(limit_ms)
                    if not events:
                        raise TimeoutError("the model server took nothing of the request")
                    happened = events[0][1]
                    if listens and happened & select.POLLIN and self._has_begun(reader):
                        if reader.head.status >= 300:
                            return False
                        listens = False
                        poll.modify(self.socket, select.POLLOUT)
                    elif happened & ~select.POLLIN:
                        with contextlib.suppress(*_WOULD_BLOCK):
                            data = data[self.socket.send(data[:_SEND_SIZE]) :]
            return True
        finally:
            self.socket.settimeout(self._timeout)

    def _has_begun(self, reader: ResponseReader) -> bool:
        """Whether the final response has begun. Raises BrokenPipeError if the connection ended instead."""
        try:
            data = self.socket.recv(READ_SIZE)
        except _WOULD_BLOCK:
            return False
        if not data:
            raise BrokenPipeError("the model server closed the connection")
        return reader.take_early(data)

    # -- whether the model server received any of a request ----------------------------------------------

    def _acknowledged_at_most(self) -> int | None:
        """How many bytes the peer can have acknowledged so far; None if unknown."""
        # Only the kernel knows the size of TLS records.
        is_tls = isinstance(self.socket, ssl.SSLSocket)
        return self._tcp_info()[1] if is_tls else self._sent + _SYN

    def _was_refused(self, before: int) -> bool:
        """After an end without a response: whether the peer had closed before it received any of the request.

        before: how many bytes it can have acknowledged before the request. The peer's kernel acknowledges
        bytes that its program may read. Once the program has closed the socket, it resets the connection
        instead.
        """
        _, acknowledged = self._tcp_info()
        if acknowledged is None or acknowledged > before:
            return False
        poll = select.poll()
        poll.register(self.socket, 0)
        with waiting:
            poll.poll(_REFUSAL_MS)  # for POLLHUP
        state, acknowledged = self._tcp_info()
        return acknowledged is not None and acknowledged <= before and state == _STATE_CLOSED

    def _tcp_info(self) -> tuple[int, int | None]:
        """The state of the connection, and how many bytes the peer has acknowledged; None if unknown."""
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        except OSError:
            return 0, None
        if len(info) < _INFO_SIZE:
            return 0, None
        return info[0], int.from_bytes(info[_BYTES_ACKED_AT:], sys.byteorder)

    @property
    def is_idle(self) -> bool:
        """Whether it is open and has nothing to read, as between two requests."""
        return nonblocking.is_silent(self.socket.fileno())

    def close(self) -> None:
        self.socket.close()

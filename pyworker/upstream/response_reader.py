"""Reads one response of the model server from its connection: header blocks, then the body in any framing."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable

from pyworker.runtime.limits import MAX_HEADER_BLOCK, READ_SIZE
from pyworker.runtime.nonblocking import Receiver
from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.incoming import Incoming
from pyworker.upstream.response_body import Chunked, Counted, Framing, UntilEnd
from pyworker.upstream.response_head import Fields, ResponseHead, parse_head
from pyworker.upstream.tap import Tap
from pyworker.wsgi_extensions import Arrival, PollableSource


class ResponseReader(PollableSource):
    """One response on a connection, and a readable file of its body. Used by one thread at a time.

    It raises OSError, `http.client.HTTPException`, or `Aborted`.
    """

    #: Of the final response, once it has begun.
    head: ResponseHead
    _body: Framing

    def __init__(self, connection: socket.socket, method: str, call: ModelCall) -> None:
        """Reads nothing before `begin`. method: of the request."""
        self._connection = connection
        self._method = method
        self._call = call
        self._incoming = Incoming()
        #: Whether the header block of the final response has been read.
        self.has_begun = False
        # Left by `take_in` for the next read: a piece, or an error.
        self._ready = b""
        self._fault: Exception | None = None
        self.tap: Tap | None = None
        self.received = False
        self.closed = False
        self.will_close = True
        self._on_end: Callable[[bool], None] | None = None

    # -- the header block --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read interim (1xx) header blocks and the final one, all within the connection's timeout."""
        timeout = self._connection.gettimeout()
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.received:
            self._receive_header_bytes()
        if self._parse():
            return
        try:
            while not self._parse():
                if deadline is not None:
                    self._connection.settimeout(_seconds_until(deadline))
                self._receive_header_bytes()
        finally:
            self._connection.settimeout(timeout)

    def take_early(self, data: bytes) -> bool:
        """Add bytes received while the request is still being sent; True if the final response has begun."""
        self._incoming.append(data)
        self.received = True
        return self._parse()

    def _parse(self) -> bool:
        """Parse the header blocks received so far; True if the final one was among them."""
        while not self.has_begun:
            raw = self._incoming.take_header_block(MAX_HEADER_BLOCK)
            if raw is None:
                return False
            self.head = parse_head(raw)
            if self.head.status >= 200:
                self._body = self._decide_framing()
                self.has_begun = True
            elif self.head.status == http.client.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("it switches to another protocol")
        return True

    def _decide_framing(self) -> Framing:
        head = self.head
        if head.framing_fault:
            raise http.client.HTTPException(head.framing_fault)
        self.will_close = head.will_close
        if self._method == "HEAD" or head.status in (204, 304):
            return Counted(self._incoming, 0)
        if head.is_chunked:
            return Chunked(self._incoming)
        if head.length is not None:
            return Counted(self._incoming, head.length)
        self.will_close = True
        return UntilEnd(self._incoming)

    def _receive_header_bytes(self) -> None:
        piece = self._receive()
        if not piece:
            if not self.received:
                raise http.client.RemoteDisconnected("the model server closed the connection")
            raise http.client.IncompleteRead(b"")
        self._incoming.append(piece)
        self.received = True

    # -- the body ----------------------------------------------------------------------------------------

    def call_at_end(self, on_end: Callable[[bool], None]) -> None:
        """Call `on_end` after the last byte, an error or `close`, with whether the connection can be reused.

        Calls it immediately if there is no body.
        """
        self._on_end = on_end
        if self._body.is_complete:
            self._end(complete=True)

    def _end(self, *, complete: bool) -> None:
        self.closed = True
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            # Bytes behind the response belong to no request.
            on_end(complete and not self.will_close and not len(self._incoming))

    @property
    def msg(self) -> Fields:
        """The header fields, under the name that cookie jars expect."""
        return self.head.fields

    @property
    def length(self) -> int | None:
        """Bytes of the body that have not been read; None if unknown."""
        return self._body.length

    @property
    def is_complete(self) -> bool:
        """Whether the body was read to the end that its framing defines."""
        return self._body.is_complete and not self._ready

    def read(self, size: int | None = None) -> bytes:
        """`size` bytes, or fewer at the end of the body; the whole body if None."""
        pieces: list[bytes] = []
        while size is None or size > 0:
            piece = self.read1(READ_SIZE if size is None else size)
            if not piece:
                break
            pieces.append(piece)
            if size is not None:
                size -= len(piece)
        return b"".join(pieces)

    def read1(self, size: int | None = None) -> bytes:
        """Between 1 and `size` bytes, waiting only for the first; empty at the end."""
        size = READ_SIZE if size is None or size < 0 else size
        if self.closed or size == 0:
            return b""
        if self._ready:
            piece, self._ready = self._ready[:size], self._ready[size:]
        else:
            piece = self._wait_for_piece(size)
        if not piece or (self._body.is_complete and not self._ready):
            self._end(complete=True)
        return piece

    def _wait_for_piece(self, size: int) -> bytes:
        try:
            if self.tap is None:
                return self._wait_for_raw_piece(size)
            while not (piece := self._tapped(self.tap, self._wait_for_raw_piece(size))):
                if self._body.is_complete:
                    return b""
        except BaseException:
            self._end(complete=False)
            raise
        self._ready = piece[size:]
        return piece[:size]

    def _wait_for_raw_piece(self, size: int) -> bytes:
        body = self._body
        piece = None if body.is_drained else body.piece(size)
        while piece is None:
            data = self._receive()
            if not data:
                body.end()
            elif (piece := body.whole_chunks(data)) and len(piece) <= size:
                break
            else:
                self._incoming.append(data)
            piece = body.piece(size)
        return piece

    def _tapped(self, tap: Tap, piece: bytes) -> bytes:
        """What is read of this piece, which was just taken from the body."""
        passed = tap.feed(piece) if piece else b""
        return passed + tap.finish() if self._body.is_complete else passed

    # -- the body, without waiting -----------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """The connection's file descriptor."""
        return self._connection.fileno()

    @property
    def timeout(self) -> float | None:
        """Seconds of silence after which the response is given up."""
        return self._connection.gettimeout()

    @property
    def is_tls(self) -> bool:
        """Whether the connection is TLS: epoll does not report bytes that are decrypted already."""
        return isinstance(self._connection, ssl.SSLSocket)

    @property
    def is_drained(self) -> bool:
        """Whether the rest of the body must come from the connection: nothing is buffered."""
        return not self.closed and not self._ready and self._body.is_drained

    def take_in(self, receiver: Receiver) -> bytes | Arrival:
        """Receive from a plain connection that epoll reported as readable."""
        try:
            data = receiver.receive(self._connection.fileno())
        except OSError as error:
            self._fault = error
            return Arrival.MORE
        if data is None:
            return Arrival.NOTHING
        if not data:
            return Arrival.MORE
        body, tap = self._body, self.tap
        if piece := body.whole_chunks(data):
            read = piece if tap is None else tap.feed(piece)
            if read is piece:
                return data
            self._ready = read
            return Arrival.PIECE if read else Arrival.NOTHING
        return self._buffer(data)

    def _buffer(self, data: bytes) -> Arrival:
        """Add received bytes, and take a piece if there is one."""
        body = self._body
        self._incoming.append(data)
        try:
            piece = body.piece(READ_SIZE)
        except http.client.HTTPException as error:
            self._fault = error
            return Arrival.MORE
        if piece is None:
            return Arrival.NOTHING
        if self.tap is not None:
            piece = self._tapped(self.tap, piece)
            if not piece and not body.is_complete:
                return Arrival.NOTHING
        self._ready = piece
        # The last read returns the connection to the pool, so the relay must not be watching it.
        return Arrival.PIECE if piece and not body.is_complete else Arrival.MORE

    def give_up_waiting(self) -> None:
        """The model server was silent for too long: the next read that has to wait raises TimeoutError."""
        self._fault = TimeoutError("the model server was silent for too long")

    # -- the socket --------------------------------------------------------------------------------------

    def _receive(self) -> bytes:
        """The next bytes; empty at the end of the connection. Raises `Aborted` if the call was aborted."""
        if self._fault is not None:
            raise self._fault
        try:
            with waiting:
                piece = self._connection.recv(READ_SIZE)
        except OSError as error:
            if self._call.aborted:
                raise Aborted from error
            raise
        if not piece and self._call.aborted:
            raise Aborted
        return piece

    def isclosed(self) -> bool:
        """As `http.client.HTTPResponse.isclosed`: whether the body was read to its end or closed."""
        return self.closed

    def close(self) -> None:
        """Stop reading; the connection is not reused unless the body is complete."""
        self._end(complete=False)

    def __repr__(self) -> str:
        status = self.head.status if self.has_begun else "not begun"
        return f"<ResponseReader {status}{' closed' if self.closed else ''}>"


def _seconds_until(deadline: float) -> float:
    """Raises TimeoutError once the deadline has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the header block of the response was not complete in time")
    return left

"""The model server's response on the wire as it comes: its header block, and its body in any framing."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable

from pyworker.answer_body import Chunked, Counted, Framing, UntilEnd
from pyworker.answer_head import MAX_HEAD, Fields, Head, parse_head
from pyworker.incoming import Incoming
from pyworker.nowait import Receiver
from pyworker.sample import Sampler
from pyworker.thread_pool import waiting
from pyworker.wsgi_extensions import Arrival, PollableSource

_PIECE = 64 * 1024


class Aborted(Exception):
    """The call was ended by `ModelCall.abort`."""


class Answer(PollableSource):
    """One response on a connection; a readable file of its body. Belongs to one thread at a time.

    What it raises is an OSError, an `http.client.HTTPException`, or `Aborted`.
    """

    #: Of the final response, once `begin` has returned.
    head: Head

    def __init__(
        self, connection: socket.socket, method: str, was_aborted: Callable[[], bool] = lambda: False
    ) -> None:
        """Nothing is read yet; call `begin`.

        was_aborted: whether an end of the connection is our own doing, and not the end of the response.
        """
        self._connection = connection
        self._method = method
        self._was_aborted = was_aborted
        self._incoming = Incoming()
        self._framing: Framing | None = None
        # What `take_in` leaves for the next read: a piece, or what went wrong.
        self._ready = b""
        self._fault: Exception | None = None
        self._sampler: Sampler | None = None
        self.received = False
        self.closed = False
        self.will_close = True
        self._on_end: Callable[[bool], None] | None = None

    # -- the header block --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read header blocks until the final one, all of them within the connection's timeout."""
        timeout = self._connection.gettimeout()
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.received:
            self._fill_head()
        if self._parse():
            return
        try:
            while not self._parse():
                if deadline is not None:
                    self._connection.settimeout(_seconds_until(deadline))
                self._fill_head()
        finally:
            self._connection.settimeout(timeout)

    @property
    def has_begun(self) -> bool:
        """Whether the header block of the final response is here."""
        return self._framing is not None

    def take_early(self, data: bytes) -> bool:
        """What came while the request was still being sent; whether the final response has begun with it."""
        self._incoming.append(data)
        self.received = True
        return self._parse()

    def _parse(self) -> bool:
        """Go through what has come of header blocks; whether the final one was among them."""
        while self._framing is None:
            raw = self._incoming.take_header_block(MAX_HEAD)
            if raw is None:
                return False
            self.head = parse_head(raw)
            if self.head.status >= 200:
                self._framing = self._decide_framing()
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

    def _fill_head(self) -> None:
        piece = self._receive()
        if not piece:
            if not self.received:
                raise http.client.RemoteDisconnected("the model server closed the connection")
            raise http.client.IncompleteRead(b"")
        self._incoming.append(piece)
        self.received = True

    # -- the body ----------------------------------------------------------------------------------------

    def call_at_end(self, on_end: Callable[[bool], None]) -> None:
        """Once nothing more is read, call `on_end` with whether the connection can be used again.

        That is after the last byte, at an error or with `close`; at once if there is no body.
        """
        self._on_end = on_end
        if self._body.is_complete:
            self._end(complete=True)

    def sample_with(self, sampler: Sampler) -> None:
        """Feed each piece of the body that is read to this as well."""
        self._sampler = sampler

    def _end(self, *, complete: bool) -> None:
        self.closed = True
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            # If more came than the response, nobody knows what it is.
            on_end(complete and not self.will_close and not len(self._incoming))

    @property
    def _body(self) -> Framing:
        assert self._framing is not None, "the response has not begun"
        return self._framing

    @property
    def msg(self) -> Fields:
        """The header fields; what cookie jars ask for."""
        return self.head.msg

    @property
    def length(self) -> int | None:
        """Bytes still to come; None if that is not known before the end."""
        return self._body.length

    @property
    def is_complete(self) -> bool:
        """Whether the body was read to its end, and ended as its framing says."""
        return self._body.is_complete and not self._ready

    def read(self, size: int | None = None) -> bytes:
        """So many bytes; fewer at the end, all of them without a size."""
        pieces: list[bytes] = []
        while size is None or size > 0:
            piece = self.read1(_PIECE if size is None else size)
            if not piece:
                break
            pieces.append(piece)
            if size is not None:
                size -= len(piece)
        return b"".join(pieces)

    def read1(self, size: int | None = None) -> bytes:
        """What is here, at least a byte and at most `size`; empty at the end. Waits if nothing is."""
        size = _PIECE if size is None or size < 0 else size
        if self.closed or size == 0:
            return b""
        if self._ready:
            piece, self._ready = self._ready[:size], self._ready[size:]
        else:
            piece = self._wait_for_piece(size)
        if not piece or (self._body.is_complete and not self._ready):
            self._end(complete=True)
        if self._sampler is not None:
            self._sampler.feed(piece)
        return piece

    def _wait_for_piece(self, size: int) -> bytes:
        body = self._body
        try:
            piece = None if body.is_drained else body.piece(size)
            while piece is None:
                data = self._receive()
                if not data:
                    body.end()
                elif (piece := body.only_chunk(data)) and len(piece) <= size:
                    break
                else:
                    self._incoming.append(data)
                piece = body.piece(size)
        except BaseException:
            self._end(complete=False)
            raise
        return piece

    # -- the body, without waiting -----------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """Of its connection."""
        return self._connection.fileno()

    @property
    def timeout(self) -> float | None:
        """Seconds of silence after which it is given up."""
        return self._connection.gettimeout()

    @property
    def is_tls(self) -> bool:
        """Whether it comes over TLS, which may hold bytes that epoll does not tell of."""
        return isinstance(self._connection, ssl.SSLSocket)

    @property
    def is_drained(self) -> bool:
        """Whether more of the body can come from nowhere but the connection."""
        return not self.closed and not self._ready and self._body.is_drained

    def take_in(self, receiver: Receiver) -> Arrival:
        """Take what a plain connection has, once epoll says that it has something."""
        try:
            data = receiver.receive(self._connection.fileno())
        except OSError as error:
            self._fault = error
            return Arrival.MORE
        if data is None:
            return Arrival.NOTHING
        if not data:
            return Arrival.MORE
        body = self._body
        piece = body.only_chunk(data)
        if not piece:
            self._incoming.append(data)
            try:
                piece = body.piece(_PIECE)
            except http.client.HTTPException as error:
                self._fault = error
                return Arrival.MORE
        if piece is None:
            return Arrival.NOTHING
        self._ready = piece
        # The end gives the connection back, which is for none who still watches it.
        return Arrival.PIECE if piece and not body.is_complete else Arrival.MORE

    def give_up_waiting(self) -> None:
        """It was silent for too long: from now on, to wait for it raises TimeoutError."""
        self._fault = TimeoutError("the model server was silent for too long")

    # -- the socket --------------------------------------------------------------------------------------

    def _receive(self) -> bytes:
        """What comes next; empty at the end of the connection. Raises `Aborted` if that is our own."""
        if self._fault is not None:
            raise self._fault
        try:
            with waiting:
                piece = self._connection.recv(_PIECE)
        except OSError as error:
            if self._was_aborted():
                raise Aborted from error
            raise
        if not piece and self._was_aborted():
            raise Aborted
        return piece

    def isclosed(self) -> bool:
        """As `http.client.HTTPResponse`: whether the body was read, or given up."""
        return self.closed

    def close(self) -> None:
        """Read no more of it."""
        self._end(complete=False)

    def __repr__(self) -> str:
        status = self.head.status if self.has_begun else "awaited"
        return f"<Answer {status}{' closed' if self.closed else ''}>"


def _seconds_until(deadline: float) -> float:
    """How long to wait still; raises TimeoutError once the deadline has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the header block of the response was not complete in time")
    return left

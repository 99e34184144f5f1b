"""The model server's answer on the wire, as it comes: its head, and its body in whatever framing."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable
from enum import Enum

from pyworker.answer_head import MAX_FIELDS, MAX_HEAD, Fields, Head, parse_head
from pyworker.nowait import Receiver
from pyworker.thread_pool import waiting

_PIECE = 64 * 1024
_MAX_INTERIM_ANSWERS = 16
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_SIZE = rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n"
_FIRST_SIZE = re.compile(_SIZE)
_NEXT_SIZE = re.compile(rb"\r?\n" + _SIZE)


class Arrival(Enum):
    """What has come of a body."""

    NOTHING = "nothing that could be read"
    PIECE = "a piece that `read1` returns without waiting"
    MORE = "an end, an error, or something else that only `read1` can tell"


class Answer:
    """One answer on a connection; a readable file of its body. Belongs to one thread.

    What it raises is an OSError or an `http.client.HTTPException`.
    """

    #: Of the final answer, once `begin` has returned.
    head: Head

    def __init__(self, connection: socket.socket, method: str) -> None:
        """Nothing is read yet; call `begin`."""
        self._connection = connection
        self._method = method
        # What came and was not taken yet.
        self._buffer = b""
        # Bytes to come of the body, or of its chunk; None until the connection ends.
        self._left: int | None = 0
        self._in_chunks = False
        self._chunk_size = _FIRST_SIZE
        # What `take_in` and `give_up_waiting` leave for the next read.
        self._fault: OSError | None = None
        self.received = False
        self.closed = False
        self.will_close = True
        self._on_end: Callable[[bool], None] | None = None

    # -- the head ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read heads until a final one."""
        for _ in range(_MAX_INTERIM_ANSWERS):
            self.head = parse_head(self._raw_head())
            if self.head.status >= 200:
                self._decide_framing()
                return
            if self.head.status == http.client.SWITCHING_PROTOCOLS:
                break
        raise http.client.HTTPException("the model server does not come to a final answer")

    def _raw_head(self) -> bytes:
        searched = 0
        while (end := _END_OF_HEAD.search(self._buffer, searched)) is None:
            searched = max(len(self._buffer) - 3, 0)
            if len(self._buffer) > MAX_HEAD:
                raise http.client.HTTPException("the head of the model server's answer is too long")
            if not self._fill():
                if not self.received:
                    raise http.client.RemoteDisconnected("the model server hung up without an answer")
                raise http.client.HTTPException("the model server broke off in the head of its answer")
        head, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
        return head

    def _decide_framing(self) -> None:
        head = self.head
        if head.framing_fault:
            raise http.client.HTTPException(head.framing_fault)
        self.will_close = head.will_close
        if self._method == "HEAD" or head.status in (204, 304):
            self._left = 0
        elif head.is_chunked:
            self._in_chunks = True
        elif head.length is not None:
            self._left = head.length
        else:
            self._left, self.will_close = None, True

    # -- the body ----------------------------------------------------------------------------------------

    def call_at_end(self, on_end: Callable[[bool], None]) -> None:
        """Once nothing more is read, call `on_end` with whether the connection can be used again.

        That is after the last byte, at an error or with `close`; at once where there is no body.
        """
        self._on_end = on_end
        if self._left == 0 and not self._in_chunks:
            self._end(complete=True)

    def _end(self, *, complete: bool) -> None:
        self.closed = True
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            # Where more came than the answer, nobody knows what it is.
            on_end(complete and not self.will_close and not self._buffer)

    @property
    def msg(self) -> Fields:
        """The header fields; what cookie jars ask for."""
        return self.head.msg

    @property
    def length(self) -> int | None:
        """Bytes still to come; None where that is not known before the end."""
        return None if self._in_chunks else self._left

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
        """What is here, at least a byte and at most `size`; empty at the end. Waits where nothing is."""
        size = _PIECE if size is None or size < 0 else size
        if self.closed or size == 0:
            return b""
        try:
            piece = self._read_chunks(size) if self._in_chunks else self._read_plain(size)
        except BaseException:
            self._end(complete=False)
            raise
        if not piece or (self._left == 0 and not self._in_chunks):
            self._end(complete=True)
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
    def is_drained(self) -> bool:
        """Whether more of the body can come from nowhere but the connection."""
        return not self.closed and len(self._buffer) <= (2 if self._in_chunks and not self._left else 0)

    def take_in(self, receiver: Receiver) -> Arrival:
        """Take what the connection has, where epoll says that it has something."""
        try:
            data = receiver.receive(self._connection.fileno())
        except OSError as error:
            self._fault = error
            return Arrival.MORE
        if data is None:
            return Arrival.NOTHING
        if not data:
            return Arrival.MORE
        self._buffer += data
        if not self._in_chunks or self._left:
            return Arrival.PIECE
        found = self._chunk_size.match(self._buffer)
        if found is None:
            return Arrival.MORE if self._is_no_size else Arrival.NOTHING
        if int(found[1], 16) == 0:
            return Arrival.MORE
        return Arrival.PIECE if len(self._buffer) > found.end() else Arrival.NOTHING

    def give_up_waiting(self) -> None:
        """It was silent for too long: from now on, to wait for it raises TimeoutError."""
        self._fault = TimeoutError("the model server was silent for too long")

    # -- the framing -------------------------------------------------------------------------------------

    def _read_plain(self, size: int) -> bytes:
        if self._left == 0:
            return b""
        if not self._buffer and not self._fill() and self._left is not None:
            raise http.client.IncompleteRead(b"", self._left)
        piece = self._take(size if self._left is None else min(size, self._left))
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def _read_chunks(self, size: int) -> bytes:
        """Of all chunks that are here already: a reader that is behind catches up in larger pieces."""
        if not self._left and self._chunk_size is _NEXT_SIZE:
            if len(self._buffer) <= 2:
                self._fill_or_fail()  # nothing of the next chunk is here yet
            if piece := self._single_chunk(size):
                return piece
        pieces: list[bytes] = []
        while size > 0 and (self._left or self._next_chunk(wait=not pieces)):
            if not self._buffer:
                if pieces:
                    break
                self._fill_or_fail()
            piece = self._take(min(size, self._left or 0))
            size -= len(piece)
            self._left = (self._left or 0) - len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _single_chunk(self, size: int) -> bytes:
        """The chunk in the buffer where that holds exactly one, as with most tokens; else empty."""
        buffer = self._buffer
        found = _NEXT_SIZE.match(buffer)
        if found is None:
            return b""
        count, start = int(found[1], 16), found.end()
        if not 0 < count <= size or len(buffer) != start + count + 2 or not buffer.endswith(b"\r\n"):
            return b""
        self._buffer = b"\r\n"
        return buffer[start:-2]

    def _next_chunk(self, *, wait: bool) -> bool:
        """Whether another chunk begins; without `wait` only one whose size is here already."""
        while (found := self._chunk_size.match(self._buffer)) is None:
            if self._is_no_size:
                raise http.client.HTTPException("the model server's answer has a chunk of no sensible size")
            if not wait:
                return False
            self._fill_or_fail()
        left = int(found[1], 16)
        if left or wait:
            self._left, self._buffer = left, self._buffer[found.end() :]
            self._chunk_size = _NEXT_SIZE
        if left == 0 and wait:
            self._skip_trailers()
        return left > 0

    @property
    def _is_no_size(self) -> bool:
        """Whether what is here in the place of a chunk's size can never become one."""
        # The end of the chunk before, and a line that should have been the size.
        return self._buffer.count(b"\n") > (self._chunk_size is _NEXT_SIZE) or len(self._buffer) > MAX_HEAD

    def _skip_trailers(self) -> None:
        for _ in range(MAX_FIELDS):
            while (end := self._buffer.find(b"\n")) < 0:
                if len(self._buffer) > MAX_HEAD:
                    raise http.client.HTTPException("the model server's answer has endless trailers")
                self._fill_or_fail()
            line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
            if line in (b"", b"\r"):
                return
        raise http.client.HTTPException("the model server's answer has endless trailers")

    # -- the socket --------------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        if size >= len(self._buffer):
            piece, self._buffer = self._buffer, b""
        else:
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece

    def _fill(self) -> bool:
        if self._fault is not None:
            raise self._fault
        with waiting:
            piece = self._connection.recv(_PIECE)
        if not piece:
            return False
        self._buffer = self._buffer + piece if self._buffer else piece
        self.received = True
        return True

    def _fill_or_fail(self) -> None:
        if not self._fill():
            raise http.client.IncompleteRead(b"")

    def isclosed(self) -> bool:
        """As `http.client.HTTPResponse`: whether the body was read, or given up."""
        return self.closed

    def close(self) -> None:
        """Read no more of it."""
        self._end(complete=False)

    def __repr__(self) -> str:
        status = self.head.status if self.received else "awaited"
        return f"<Answer {status}{' closed' if self.closed else ''}>"

"""The framings of a response body: bytes in, pieces out. Pure.

`piece` of each framing returns

    bytes      as much of the body as is buffered, up to the size asked for
    b""        the body is complete
    None       nothing is buffered: more has to be received

and raises `http.client.HTTPException` if the framing is malformed.
"""

from __future__ import annotations

import functools
import http.client
import re
from abc import ABC, abstractmethod

from pyworker.runtime.limits import MAX_HEADER_BLOCK
from pyworker.upstream.incoming import Incoming
from pyworker.upstream.response_head import MAX_FIELDS

# As `http.client`: a chunk size has up to 16 significant digits after any number of zeros.
_HEX_DIGITS = re.compile(rb"[0-9A-Fa-f]+")
_MAX_DIGITS = 16


class Framing(ABC):
    """How the end of a body is known. Used by one thread at a time."""

    def __init__(self, incoming: Incoming) -> None:
        """incoming: the bytes of the body, and perhaps more behind them."""
        self._incoming = incoming
        self.is_complete = False

    @property
    def length(self) -> int | None:
        """Bytes of the body that have not been taken; None if unknown."""
        return None

    @abstractmethod
    def piece(self, size: int) -> bytes | None:
        """The next piece of at most `size` bytes; see above."""

    def whole_chunks(self, data: bytes) -> bytes:  # noqa: ARG002
        """The piece in `data` if it holds whole chunks and nothing else is buffered; else empty."""
        return b""

    @property
    def is_drained(self) -> bool:
        """Whether the rest of the body must come from the connection: nothing is buffered."""
        return not self.is_complete and not len(self._incoming)

    def end(self) -> None:
        """The connection has ended. Raises `http.client.IncompleteRead` if the body has not."""
        raise http.client.IncompleteRead(b"", self.length)


class Counted(Framing):
    """A body whose length is known."""

    def __init__(self, incoming: Incoming, length: int) -> None:
        super().__init__(incoming)
        self._left = length
        self.is_complete = length == 0

    @property
    def length(self) -> int | None:
        return self._left

    def piece(self, size: int) -> bytes | None:
        if self.is_complete:
            return b""
        if not len(self._incoming):
            return None
        piece = self._incoming.take(min(size, self._left))
        self._left -= len(piece)
        self.is_complete = not self._left
        return piece


class UntilEnd(Framing):
    """A body that ends with its connection."""

    def piece(self, size: int) -> bytes | None:
        if len(self._incoming):
            return self._incoming.take(size)
        return b"" if self.is_complete else None

    def end(self) -> None:
        self.is_complete = True


class Chunked(Framing):
    """A body in chunks."""

    def __init__(self, incoming: Incoming) -> None:
        super().__init__(incoming)
        # Bytes of the current chunk that have not been taken.
        self._left = 0
        # Whether the next byte to be received is known to begin a chunk, and nothing is buffered.
        self._is_between = False
        # Whether the line end after the last chunk's data has not been taken.
        self._owes_line_end = False
        # Lines of the trailer section so far; None before the last chunk.
        self._trailers: int | None = None
        # Malformed framing: what comes behind it means nothing.
        self._fault: http.client.HTTPException | None = None

    def piece(self, size: int) -> bytes | None:
        """Joins the buffered chunks: a reader that is behind catches up in larger pieces."""
        if self._fault is not None:
            raise self._fault
        self._is_between = False
        pieces: list[bytes] = []
        while size > 0:
            try:
                begun = self._left or self._begin_chunk()
            except http.client.HTTPException as error:
                self._fault = error
                if not pieces:
                    raise
                break
            if not begun or not len(self._incoming):
                break
            piece = self._incoming.take(min(size, self._left))
            size -= len(piece)
            self._left -= len(piece)
            self._owes_line_end = not self._left
            pieces.append(piece)
        if pieces:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return b"" if self.is_complete else None

    def whole_chunks(self, data: bytes) -> bytes:
        if not self._is_between:
            if self._left or self._owes_line_end or self._trailers is not None or len(self._incoming):
                return b""
            self._is_between = True
        pieces: list[bytes] = []
        at, length = 0, len(data)
        while at < length:
            line_end = data.find(b"\r\n", at, at + _MAX_DIGITS + 2)
            size = _plain_size(data[at:line_end]) if line_end > 0 else 0
            end = line_end + 2 + size
            if not size or data[end : end + 2] != b"\r\n":
                return b""
            piece = data[line_end + 2 : end]
            at = end + 2
            if at == length and not pieces:
                return piece
            pieces.append(piece)
        return b"".join(pieces)

    @property
    def is_drained(self) -> bool:
        if self._owes_line_end and self._incoming.skip_line_end():
            self._owes_line_end = False
        return not self.is_complete and not len(self._incoming)

    def _begin_chunk(self) -> bool:
        """Whether a chunk with data begins; False if more has to be received, or the body has ended."""
        if self._trailers is None:
            if self._owes_line_end and not self._take_line_end():
                return False
            line = self._incoming.take_line(MAX_HEADER_BLOCK)
            if line is None:
                return False
            self._left = _size_in(line)
            if self._left:
                return True
            self._trailers = 0
        self._skip_trailers()
        return False

    def _take_line_end(self) -> bool:
        if self._incoming.skip_line_end():
            self._owes_line_end = False
        elif self._incoming.lacks_line_end:
            raise http.client.HTTPException("it has a chunk that is longer than its size")
        return not self._owes_line_end

    def _skip_trailers(self) -> None:
        while not self.is_complete and (line := self._incoming.take_line(MAX_HEADER_BLOCK)) is not None:
            self.is_complete = not line
            self._trailers = (self._trailers or 0) + 1
            if self._trailers > MAX_FIELDS:
                raise http.client.HTTPException("it has endless trailers")


@functools.lru_cache(maxsize=1024)
def _plain_size(digits: bytes) -> int:
    """The size in the first line of a chunk that has no extensions; 0 if it is another line.

    Cached: most tokens of a stream have one of a few lengths.
    """
    is_plain = len(digits) <= _MAX_DIGITS and _HEX_DIGITS.fullmatch(digits) is not None
    return int(digits, 16) if is_plain else 0


def _size_in(line: bytes) -> int:
    """The size in the first line of a chunk, without its extensions."""
    digits = line.partition(b";")[0].strip(b" \t")
    significant = digits.lstrip(b"0")
    if _HEX_DIGITS.fullmatch(digits) is None or len(significant) > _MAX_DIGITS:
        raise http.client.HTTPException("it has a chunk with an invalid size")
    return int(significant or b"0", 16)

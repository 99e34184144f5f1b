"""Where a request ends, as far as it must be known to wait for the rest. Pure: bytes in, a verdict out.

What a request means, and where the next one begins, is decided by gunicorn's strict parser alone, later and
on the same bytes. So nothing here refuses: a request that is broken or ambiguous is passed on for the
parser to refuse, and the end found here only says that enough bytes have arrived.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import Enum

from pyworker.runtime.limits import MAX_HEADER_BLOCK, SMALL_BODY

_MAX_CHUNK_LINE = 8190

#: Chunks looked at in one call of `feed`: a fraction of a millisecond, however small they are.
_CHUNKS_PER_FEED = 128

# Each repeat ends at a byte that it cannot match itself, so matching takes linear time for any bytes; blanks
# around a value are stripped afterwards.
_FIELDS = re.compile(rb"\r\n(content-length|transfer-encoding|expect)[ \t]*:([^\r\n]*)", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]{1,15}")
_MAX_SIZE_DIGITS = 8
_CHUNKED = -1


class Verdict(Enum):
    """What to do with the bytes so far."""

    MORE = "wait for more"
    WHOLE = "the whole request has arrived"
    BEGUN = "the header block and the beginning of a large body have arrived"
    DOUBT = "let the parser judge; there is nothing to wait for"


class _Doubtful(Exception):
    """The header block is ambiguous or malformed."""


class Framing:
    """The bytes of one request as they arrive. Not thread-safe."""

    def __init__(self, max_body: int, known: Callable[[bytes], bytes | None] | None = None) -> None:
        """max_body: a larger declared body is not waited for, since it will be refused.

        known: returns the body if these bytes are one whole request with the header block of the connection's
        last request (`CachedHead.body_in`).
        """
        #: The body of a whole request with that header block.
        self.known_body: bytes | None = None
        #: Whether `feed` stopped early; call it again, with no bytes if none have arrived.
        self.is_behind = False
        # What has arrived: bytes if it came in one piece, else a bytearray, to which more is added without a
        # copy.
        self._buffer: bytes | bytearray = b""
        self._known = known
        self._max_body = max_body
        # Until the header block is complete: where to continue the search for its end, and whether an LF came
        # without its CR.
        self._searched = 0
        self._has_bare_lf = False
        # After that: where the body begins, its declared length, and where the next chunk's line begins.
        self.body_at = 0
        self._length = 0
        self._length_at: tuple[int, int] | None = None
        self._chunk_at = 0
        # Where to continue the search for the end of a chunk's line, or of the trailers.
        self._line_searched = 0
        self._expects = False

    def feed(self, data: bytes) -> Verdict:
        """More bytes have arrived; none after a verdict other than MORE. Only new bytes are looked at."""
        if self._known is not None and not self._buffer:
            self.known_body = self._known(data)
            if self.known_body is not None:
                self._buffer = data
                return Verdict.WHOLE
        if not self._buffer:
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        if not self.body_at:
            end = self._buffer.find(b"\r\n\r\n", self._searched)
            if end < 0:
                return self._incomplete_head(data)
            try:
                self._read_head(end)
            except _Doubtful:
                return Verdict.DOUBT
        arrived = len(self._buffer) - self.body_at
        if self._length == _CHUNKED:
            verdict = self._chunks()
        else:
            verdict = Verdict.WHOLE if arrived >= self._length else Verdict.MORE
        return Verdict.BEGUN if verdict is Verdict.MORE and arrived >= SMALL_BODY else verdict

    @property
    def received(self) -> bytes:
        """What has arrived. A copy if it came in pieces."""
        return bytes(self._buffer)

    @property
    def size(self) -> int:
        """How many bytes have arrived."""
        return len(self._buffer)

    @property
    def in_body(self) -> bool:
        """Whether the header block is complete."""
        return self.body_at > 0

    @property
    def around_length(self) -> tuple[bytes, bytes] | None:
        """The header block before and behind the digits of its Content-Length; None if it has none.

        Also None for one with an Expect field, which asks for more than a response.
        """
        if self._length_at is None or not self.in_body:
            return None
        start, end = self._length_at
        return bytes(self._buffer[:start]), bytes(self._buffer[end : self.body_at])

    @property
    def missing(self) -> float:
        """How many bytes of the body have not arrived; infinite for a chunked body."""
        return math.inf if self._length == _CHUNKED else self.body_at + self._length - len(self._buffer)

    @property
    def too_large(self) -> bool:
        """Whether the header block exceeds the limit."""
        return not self.in_body and len(self._buffer) > MAX_HEADER_BLOCK

    def take_expectation(self) -> bool:
        """Whether the client waits for "100 Continue"; true only once."""
        expects, self._expects = self._expects, False
        return expects

    def _incomplete_head(self, data: bytes) -> Verdict:
        buffer = self._buffer
        self._searched = max(0, len(buffer) - 3)
        # With the byte before the new ones, which may be the CR of a line that ends at their first byte.
        before = len(buffer) - len(data) - 1
        new = data if before < 0 else bytes(buffer[before:])
        self._has_bare_lf = self._has_bare_lf or data.count(b"\n") != new.count(b"\r\n")
        begins_well = buffer[:1] == b"\r" or b" " < buffer[:1] < b"\x7f"
        hopeless = self._has_bare_lf or not begins_well or len(buffer) > MAX_HEADER_BLOCK
        return Verdict.DOUBT if hopeless else Verdict.MORE

    def _read_head(self, end: int) -> None:
        """Read the framing from a header block that ends here."""
        if end > MAX_HEADER_BLOCK:
            raise _Doubtful
        head = bytes(self._buffer[: end + 2])
        length = None
        for found in _FIELDS.finditer(head):
            if not head.startswith(b"\r\n", found.end()):
                raise _Doubtful  # a bare CR or LF
            kind, value = found[1].lower(), found[2].strip(b" \t")
            if kind == b"expect":
                if value.lower() != b"100-continue":
                    raise _Doubtful
                self._expects = b" HTTP/1.1\r\n" in head
            elif length is not None:
                raise _Doubtful
            else:
                length = _body_length(kind, value, self._max_body)
                start = found.start(2) + found[2].index(value)
                self._length_at = start, start + len(value)
        if self._expects or length == _CHUNKED:
            self._length_at = None
        self._length = length or 0
        self.body_at = self._chunk_at = self._line_searched = end + 4

    def _chunks(self) -> Verdict:
        """Go from chunk to chunk, as far as they have arrived, and through a limited number in one call."""
        buffer, at = self._buffer, self._chunk_at
        verdict: Verdict | None = None
        for _ in range(_CHUNKS_PER_FEED):
            if at > len(buffer):
                verdict = Verdict.MORE
                break
            end = buffer.find(b"\r\n", max(at, self._line_searched))
            if end < 0:
                verdict = self._incomplete_line(at)
                break
            count = _chunk_size(bytes(buffer[at:end]))
            if count <= 0:
                verdict = Verdict.DOUBT if count < 0 else self._trailers(end)
                break
            at = end + 2 + count + 2
        self._chunk_at = at
        self.is_behind = verdict is None
        return verdict or Verdict.MORE

    def _incomplete_line(self, at: int) -> Verdict:
        """The size line of the chunk that begins here is not complete."""
        buffer = self._buffer
        has_bare_lf = buffer.find(b"\n", max(at, self._line_searched)) >= 0
        self._line_searched = max(at, len(buffer) - 1)
        return Verdict.DOUBT if has_bare_lf or len(buffer) - at > _MAX_CHUNK_LINE else Verdict.MORE

    def _trailers(self, end: int) -> Verdict:
        """The size line of the last chunk ends here; the trailers end with an empty line."""
        if self._buffer.find(b"\r\n\r\n", max(end, self._searched)) >= 0:
            return Verdict.WHOLE
        self._searched = max(end, len(self._buffer) - 3)
        return Verdict.MORE

    def __repr__(self) -> str:
        return f"<Framing [{len(self._buffer)} bytes]{' in body' if self.in_body else ''}>"


def _body_length(field: bytes, value: bytes, limit: int) -> int:
    if field == b"transfer-encoding":
        if value.lower() == b"chunked":
            return _CHUNKED
    elif _DIGITS.fullmatch(value) and int(value) <= limit:
        return int(value)
    raise _Doubtful


def _chunk_size(line: bytes) -> int:
    """The size in the line that begins a chunk; -1 if it is malformed."""
    digits = line.partition(b";")[0].rstrip(b" \t") if b";" in line else line.rstrip(b" \t")
    # isalnum: `int` accepts blanks, signs and underscores.
    if len(digits) > _MAX_SIZE_DIGITS or not digits.isalnum():
        return -1
    try:
        return int(digits, 16)
    except ValueError:
        return -1

"""Where a request ends, as far as one must know it to wait for the rest. Pure: bytes in, a verdict out.

What a request says, and where the next one begins, is decided by gunicorn's strict parser alone, later and on
the same bytes. So nothing here refuses: what is broken or could be read in two ways is handed over at once
for the parser to refuse, and what this module takes for the end only says that enough has come.
"""

from __future__ import annotations

import math
import re
from enum import Enum

from pyworker.heads import KnownHead

#: The largest head. gunicorn bounds its lines; this bounds the memory that many unfinished ones may take.
MAX_HEAD = 64 * 1024
#: A body up to this size is waited for without a thread: far more than a prompt, and little enough to be kept
#: for thousands of clients.
MAX_SMALL_BODY = 64 * 1024
_MAX_CHUNK_LINE = 8190

_FIELDS = re.compile(
    rb"\r\n(content-length|transfer-encoding|expect)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE
)
_DIGITS = re.compile(rb"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;|\Z)")
_CHUNKED = -1


class Verdict(Enum):
    """What to do with the bytes so far."""

    MORE = "wait for more"
    WHOLE = "the whole request is here"
    BEGUN = "the head and the beginning of a large body are here"
    DOUBT = "let the parser judge; there is nothing to wait for"


class _Doubtful(Exception):
    """The head can be read in two ways, or not at all."""


class Framing:
    """The bytes of one request as they come. Not thread-safe."""

    def __init__(self, max_body: int, known: KnownHead | None = None) -> None:
        """max_body: a larger declared body is not waited for, since it will be refused.

        known: the head of the connection's last request; often this one has it too.
        """
        self.received = b""
        #: The body of a whole request with the head that is known.
        self.known_body: bytes | None = None
        self._known = known
        self._max_body = max_body
        # Until the head is complete: where to go on looking for its end.
        self._searched = 0
        # From then on: where the body begins, its declared length, and where the next chunk's line begins.
        self._body_at = 0
        self._length = 0
        self._length_at: tuple[int, int] | None = None
        self._chunk_at = 0
        self._expects = False

    def feed(self, data: bytes) -> Verdict:
        """More of it has come; no more once the verdict is another than MORE."""
        if self._known is not None and not self.received:
            self.known_body = self._known.body_in(data)
            if self.known_body is not None:
                self.received = data
                return Verdict.WHOLE
        self.received = self.received + data if self.received else data
        if not self._body_at:
            end = self.received.find(b"\r\n\r\n", self._searched)
            if end < 0:
                return self._unfinished_head()
            try:
                self._read_head(end)
            except _Doubtful:
                return Verdict.DOUBT
        verdict = self._chunks() if self._length == _CHUNKED else self._counted()
        if verdict is Verdict.MORE and len(self.received) - self._body_at >= MAX_SMALL_BODY:
            return Verdict.BEGUN
        return verdict

    @property
    def in_body(self) -> bool:
        """Whether the head is complete."""
        return self._body_at > 0

    @property
    def around_length(self) -> tuple[bytes, bytes] | None:
        """The head before and behind the digits of its Content-Length; None where it has none.

        Also None for one with an expectation, which asks for more than its bytes say.
        """
        if self._length_at is None or not self.in_body:
            return None
        start, end = self._length_at
        return self.received[:start], self.received[end : self._body_at]

    @property
    def declared(self) -> int:
        """How many bytes of body will come; 0 where that is not said."""
        return max(self._length, 0)

    @property
    def missing(self) -> float:
        """How many bytes of the body are still to come; infinite where that is not said."""
        return math.inf if self._length == _CHUNKED else self._body_at + self._length - len(self.received)

    @property
    def too_large(self) -> bool:
        """Whether this is a head beyond all bounds."""
        return not self.in_body and len(self.received) > MAX_HEAD

    def take_expectation(self) -> bool:
        """Whether the client waits for "100 Continue"; true only once."""
        expects, self._expects = self._expects, False
        return expects

    def _unfinished_head(self) -> Verdict:
        received = self.received
        self._searched = max(0, len(received) - 3)
        begins_well = received[:1] == b"\r" or b" " < received[:1] < b"\x7f"
        bare = received.count(b"\n") != received.count(b"\r\n")
        return Verdict.DOUBT if bare or not begins_well or len(received) > MAX_HEAD else Verdict.MORE

    def _read_head(self, end: int) -> None:
        """The framing of a head that ends here."""
        if end > MAX_HEAD:
            raise _Doubtful
        head = self.received[: end + 2]
        length = None
        for found in _FIELDS.finditer(head):
            kind, value = found[1].lower(), found[2]
            if kind == b"expect":
                if value.lower() != b"100-continue":
                    raise _Doubtful
                self._expects = b" HTTP/1.1\r\n" in head
            elif length is not None:
                raise _Doubtful
            elif kind == b"transfer-encoding":
                length = _chunked(value)
            else:
                length = _counted(value, self._max_body)
                self._length_at = found.span(2)
        if self._expects:
            self._length_at = None
        self._length = length or 0
        self._body_at = self._chunk_at = end + 4

    def _counted(self) -> Verdict:
        return Verdict.WHOLE if len(self.received) - self._body_at >= self._length else Verdict.MORE

    def _chunks(self) -> Verdict:
        """Go from chunk to chunk, as far as they are here."""
        received = self.received
        while self._chunk_at <= len(received):
            at = self._chunk_at
            end = received.find(b"\r\n", at)
            if end < 0:
                unending = len(received) - at > _MAX_CHUNK_LINE or received.find(b"\n", at) >= 0
                return Verdict.DOUBT if unending else Verdict.MORE
            size = _CHUNK_SIZE.match(received, at, end)
            if size is None:
                return Verdict.DOUBT
            count = int(size[1], 16)
            if count == 0:
                return Verdict.WHOLE if received.find(b"\r\n\r\n", end) >= 0 else Verdict.MORE
            self._chunk_at = end + 2 + count + 2
        return Verdict.MORE

    def __repr__(self) -> str:
        return f"<Framing [{len(self.received)} bytes]{' in body' if self.in_body else ''}>"


def _chunked(coding: bytes) -> int:
    if coding.lower() != b"chunked":
        raise _Doubtful
    return _CHUNKED


def _counted(length: bytes, limit: int) -> int:
    if not _DIGITS.fullmatch(length) or int(length) > limit:
        raise _Doubtful
    return int(length)

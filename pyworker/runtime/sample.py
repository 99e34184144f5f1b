"""The beginning and end of a response body: enough to detect an error object, in bounded memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes kept of each end of a body.
KEPT = 16 * 1024


@dataclass(frozen=True)
class ResponseSample:
    """A complete response of the model server, as `find_failure` gets it. Immutable.

    content_type: as the model server sent it; empty if it sent none. beginning, end: at most the first and
    the last `KEPT` bytes of the body, still in its content coding; both are the whole of a body up to that
    size. length: of the body, in bytes.
    """

    status: int
    content_type: str
    beginning: bytes
    end: bytes
    length: int

    @property
    def is_whole(self) -> bool:
        """Whether `beginning` is the whole body."""
        return self.length == len(self.beginning)


class Sampler:
    """Keeps the beginning and end of a body while it is relayed. Belongs to one thread at a time."""

    def __init__(self, status: int, content_type: str) -> None:
        self._status = status
        self._content_type = content_type
        self._beginning = b""
        self._end = b""
        self._length = 0

    def feed(self, piece: bytes) -> None:
        """The next piece of the body. Costs at most a copy of `KEPT` bytes."""
        self._length += len(piece)
        if len(self._beginning) < KEPT:
            self._beginning += piece[: KEPT - len(self._beginning)]
        self._end = piece[-KEPT:] if len(piece) >= KEPT else (self._end + piece)[-KEPT:]

    def sample(self) -> ResponseSample:
        """Of the pieces so far."""
        return ResponseSample(self._status, self._content_type, self._beginning, self._end, self._length)

    def __repr__(self) -> str:
        return f"<Sampler [{self._length} bytes]>"

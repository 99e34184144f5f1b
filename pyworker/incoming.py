"""Bytes that a connection brought and that nobody took yet. Pure, and linear however they came in."""

from __future__ import annotations

import http.client
import re

_END_OF_HEADER_BLOCK = re.compile(rb"\n\r?\n")


class Incoming:
    """A buffer that is filled at its end and emptied at its beginning. Belongs to one thread at a time.

    No byte is looked at or moved more than a constant number of times: the search for the end of a line or
    of a header block goes on at the place where it ended, and what was taken is stepped over, not cut off.
    """

    __slots__ = ("_at", "_data", "_searched")

    def __init__(self) -> None:
        # Bytes of one piece as they came; a bytearray as soon as a second piece is added to a rest.
        self._data: bytes | bytearray = b""
        # The first byte that was not taken, and the first that was not searched.
        self._at = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def append(self, piece: bytes) -> None:
        """The next bytes of the connection."""
        if self._at == len(self._data):
            self._data, self._at, self._searched = piece, 0, 0
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(memoryview(self._data)[self._at :])
        elif self._at:
            del self._data[: self._at]
        self._searched = max(self._searched - self._at, 0)
        self._at = 0
        self._data += piece

    def take(self, size: int) -> bytes:
        """At most `size` bytes, fewer if there are not as many."""
        data, at = self._data, self._at
        end = min(at + size, len(data))
        if end == len(data):
            self._data, self._at, self._searched = b"", 0, 0
        else:
            self._at = end
        return bytes(data) if at == 0 and end == len(data) else bytes(data[at:end])

    def take_line(self, limit: int) -> bytes | None:
        """The next line without its end (LF or CRLF); None if it is not complete.

        Raises `http.client.HTTPException` if it is longer than `limit` bytes.
        """
        at = self._at
        end = self._data.find(b"\n", max(self._searched, at), at + limit + 1)
        if end < 0:
            if len(self._data) - at > limit:
                raise http.client.HTTPException("it has an endless line")
            self._searched = len(self._data)
            return None
        line = bytes(self._data[at:end])
        self._at = end + 1
        return line[:-1] if line.endswith(b"\r") else line

    def skip_line_end(self) -> bool:
        """Step over the end of a line (LF or CRLF); False if that is not what comes next."""
        start = self._data[self._at : self._at + 2]
        if start == b"\r\n":
            self.take(2)
        elif start[:1] == b"\n":
            self.take(1)
        else:
            return False
        return True

    @property
    def begins_otherwise(self) -> bool:
        """Whether what comes next can never become the end of a line."""
        start = self._data[self._at : self._at + 2]
        return len(start) > 0 and start != b"\r" and start != b"\r\n" and start[:1] != b"\n"

    def take_header_block(self, limit: int) -> bytes | None:
        """Everything before the next empty line, which is taken too; None if it is not complete.

        Raises `http.client.HTTPException` if it is longer than `limit` bytes.
        """
        data, at = self._data, self._at
        found = _END_OF_HEADER_BLOCK.search(data, max(self._searched - 3, at))
        if found is None:
            if len(data) - at > limit:
                raise http.client.HTTPException("its header block is too long")
            self._searched = len(data)
            return None
        self._at = found.end()
        return bytes(data[at : found.start()])

    def __repr__(self) -> str:
        return f"<Incoming [{len(self)} bytes]>"

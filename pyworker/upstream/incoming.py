"""A buffer of received bytes. Pure, and linear in time however the bytes arrive."""

from __future__ import annotations

import http.client
import re

_END_OF_HEADER_BLOCK = re.compile(rb"\n\r?\n")


class Incoming:
    """Filled at its end and emptied at its beginning. Used by one thread at a time.

    No byte is searched or moved more than a constant number of times: a search for the end of a line or of a
    header block resumes at the byte where the last one stopped, and bytes that were taken are skipped, not
    cut.
    """

    __slots__ = ("_at", "_data", "_searched")

    def __init__(self) -> None:
        # The received piece itself; a bytearray once a second piece is added to a remainder.
        self._data: bytes | bytearray = b""
        # Indexes of the first byte that was not taken, and the first that was not searched.
        self._at = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def append(self, piece: bytes) -> None:
        """Add received bytes."""
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
        """Up to `size` bytes."""
        data, at = self._data, self._at
        end = min(at + size, len(data))
        if end == len(data):
            self._data, self._at, self._searched = b"", 0, 0
        else:
            self._at = end
        return bytes(data) if at == 0 and end == len(data) else bytes(data[at:end])

    def take_line(self, limit: int) -> bytes | None:
        """The next line without its end (LF or CRLF); None if it is incomplete.

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
        """Skip an end of line (LF or CRLF); False if the next bytes are not one."""
        start = self._data[self._at : self._at + 2]
        if start == b"\r\n":
            self.take(2)
        elif start[:1] == b"\n":
            self.take(1)
        else:
            return False
        return True

    @property
    def lacks_line_end(self) -> bool:
        """Whether the next bytes cannot become an end of line."""
        start = self._data[self._at : self._at + 2]
        return len(start) > 0 and start != b"\r" and start != b"\r\n" and start[:1] != b"\n"

    def take_header_block(self, limit: int) -> bytes | None:
        """The bytes before the next empty line, which is taken too; None if it is incomplete.

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

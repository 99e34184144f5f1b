"""gunicorn's parser for one request whose beginning the event loop has received."""

from __future__ import annotations

import math
import time
from typing import Any, cast

from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

from pyworker.downstream.connection import BYTES_PER_SECOND, ClientSocket
from pyworker.downstream.framing import Verdict
from pyworker.downstream.request_reader import BODY_SECONDS
from pyworker.runtime.limits import COPY_SIZE

_CHUNKED_PIECE = 4096


class MissingHost(ParseException):
    """A request of HTTP/1.1 without a Host field (RFC 9112 section 3.2)."""


class Source(Unreader):
    """The bytes of one request: what was received already, and the rest of a large body within its deadline.

    Nothing is waited for if the event loop took the request for whole: if the parser wants more, it gets the
    end.
    """

    def __init__(self, client: ClientSocket) -> None:
        super().__init__()
        framing = client.framing
        self._client = client
        # Received and not given to the parser yet. The header block is one piece. The parser copies what it
        # holds for each chunk of a chunked body, so it gets little at a time.
        self._received = memoryview(framing.received)
        # Bytes of the body that have not arrived; infinite for a chunked body.
        self._left = framing.missing
        self._piece_size = _CHUNKED_PIECE if self._left == math.inf else framing.size
        self._next_piece = framing.body_at or framing.size
        self.is_whole = client.verdict is Verdict.WHOLE
        self._may_read = client.verdict is Verdict.BEGUN
        self._deadline = time.monotonic() + BODY_SECONDS
        self._read = 0
        self.is_past_head = False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Some more bytes; raises TimeoutError if the body arrives too slowly.

        The deadline moves with what has arrived, so that a large length alone buys no time.
        """
        if self._received:
            piece, self._received = self._received[: self._next_piece], self._received[self._next_piece :]
            self._next_piece = max(self._piece_size, size_hint or 0)
            return bytes(piece)
        if not self._may_read:
            return b""
        left = self._deadline + self._read / BYTES_PER_SECOND - time.monotonic()
        if left <= 0:
            raise TimeoutError("the body arrived too slowly")
        data = self._client.read_within(min(max(size_hint or 0, 8192), 2**20), left)
        self._read += len(data)
        self._left -= len(data)
        if self._left <= 0:
            self._client.body_is_read()
        return data

    def unread(self, data: Any) -> None:
        """The parser gives back what it does not need: behind the header block, and behind the last chunk."""
        super().unread(data)
        if self.is_past_head:
            self._client.body_is_read()

    def take_buffered(self) -> bytes:
        """The bytes behind the request."""
        received, self._received = self._received, memoryview(b"")
        unread: Any = super()
        return unread.take_buffered() + received


class ParsedRequest(Request):
    """The request as gunicorn's strict parser reads it; the constructor raises the parser's errors."""

    def __init__(self, config: Any, client: ClientSocket) -> None:
        source = Source(client)
        super().__init__(config, source, client.address)
        source.is_past_head = True
        has_host, connection = False, ""
        for name, value in self.headers:
            if name == "CONNECTION":
                connection += f",{value}"
            elif name == "HOST":
                has_host = True
        is_old = cast("tuple[int, int]", self.version) < (1, 1)
        if not (has_host or is_old):
            raise MissingHost
        # Connection is a list, in any number of fields, and close wins. The base class looks at the first
        # field only, and only if it is no list.
        tokens = {token.strip(" \t").lower() for token in connection.split(",")} if connection else ()
        self._closes = "close" in tokens or (is_old and "keep-alive" not in tokens)
        # The event loop has sent 100 Continue already if the client waits for it.
        self._expected_100_continue = False

    def should_close(self) -> bool:
        """Whether the connection ends with the response."""
        return bool(self.must_close) or self._closes or self.method == "CONNECT"

    @property
    def is_unread(self) -> bool:
        """Whether the rest of the request has not been received."""
        body: Any = self.body
        source: Any = self.unreader
        reader = body.reader
        if body.failed:
            return True
        if source.is_whole:
            return False
        if isinstance(reader, LengthReader):
            return reader.length > 0
        return isinstance(reader, ChunkedReader) and reader.parser is not None

    def finish(self) -> bytes:
        """Skip what the app did not read; the bytes behind the request. Raises the parser's errors."""
        body: Any = self.body
        source: Any = self.unreader
        while body.read(COPY_SIZE):
            pass
        return source.take_buffered()

"""gunicorn's parser and response for one request whose beginning the poller has read."""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader
from gunicorn.http.wsgi import Response, create
from gunicorn.util import http_date

from pyworker.client_socket import BYTES_PER_SECOND, ClientSocket
from pyworker.framing import Verdict
from pyworker.heads import KnownHead, KnownHeads
from pyworker.poller import BODY_SECONDS
from pyworker.wsgi_extensions import LEAVE_LINE, PRESENCE

_JOIN_LIMIT = 64 * 1024
_CHUNKED_PIECE = 4096


class MissingHost(ParseException):
    """A request of HTTP/1.1 without a Host field (RFC 9112 section 3.2)."""


class Source(Unreader):
    """What was read already, and the rest of a large body within its deadline; then the end.

    A request that the poller takes for whole is never waited for here: where the parser wants more of it, the
    parser is told that there is nothing.
    """

    def __init__(self, client: ClientSocket) -> None:
        super().__init__()
        framing = client.framing
        self._client = client
        # Read by the poller and not given to the parser yet. The head comes in one piece; of chunks the
        # parser copies what it holds for each of them, so it gets little at a time.
        self._received = memoryview(framing.received)
        self._next_piece = framing.body_at or framing.size
        self._piece_size = _CHUNKED_PIECE if framing.is_chunked else framing.size
        self.is_whole = client.verdict is Verdict.WHOLE
        self._may_read = client.verdict is Verdict.BEGUN
        self._deadline = time.monotonic() + BODY_SECONDS
        self._read = 0
        self.is_past_head = False
        # How much of it is still to come; of chunks one cannot know.
        self._left = framing.missing

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Some more; raises TimeoutError for a body that came slower than it must.

        The deadline moves with what has come, so that a large length alone buys no time.
        """
        if self._received:
            piece, self._received = self._received[: self._next_piece], self._received[self._next_piece :]
            self._next_piece = max(self._piece_size, size_hint or 0)
            return bytes(piece)
        if not self._may_read:
            return b""
        left = self._deadline + self._read / BYTES_PER_SECOND - time.monotonic()
        if left <= 0:
            raise TimeoutError("the body came too slowly")
        data = self._client.read_within(min(max(size_hint or 0, 8192), 2**20), left)
        self._read += len(data)
        self._left -= len(data)
        if self._left <= 0:
            self._client.body_is_read()
        return data

    def unread(self, data: Any) -> None:
        """The parser gives back what is not its own: behind a head, and behind the last chunk."""
        super().unread(data)
        if self.is_past_head:
            self._client.body_is_read()

    def take_buffered(self) -> bytes:
        """What is left when the request is done."""
        received, self._received = self._received, memoryview(b"")
        unread: Any = super()
        return unread.take_buffered() + received


class ParsedRequest(Request):
    """The request as gunicorn's strict parser reads it; to make one raises its errors."""

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
        # Connection is a list, in any number of fields, and close wins. The base looks at the first field
        # only, and only if it is no list.
        tokens = {token.strip(" \t").lower() for token in connection.split(",")} if connection else ()
        self._closes = "close" in tokens or (is_old and "keep-alive" not in tokens)
        # The poller has said so already where the client waited for it.
        self._expected_100_continue = False

    def should_close(self) -> bool:
        """Whether the connection ends with the response."""
        return bool(self.must_close) or self._closes or self.method == "CONNECT"

    @property
    def goes_on(self) -> bool:
        """Whether the rest of the request is still on its way."""
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
        """Pass over what the app did not read; the bytes behind the request. Raises the parser's errors."""
        body: Any = self.body
        source: Any = self.unreader
        while body.read(_JOIN_LIMIT):
            pass
        return source.take_buffered()


@functools.lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return http_date(seconds)


class OneSendResponse(Response):
    """gunicorn's response, but the head leaves together with the first piece of the body: one system call.

    It also says that the connection ends where the rest of the request is still on its way, and knows whether
    all of the body was sent.
    """

    def __init__(
        self, req: Any, sock: Any, cfg: Any, client: ClientSocket, is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__(req, sock, cfg)
        self.request: ParsedRequest | KnownHead = req
        self._client = client
        self._head = b""
        self._is_stopping = is_stopping

    def should_close(self) -> bool:
        # Asked when the head is made and again at the end; the worker may begin to stop between the two.
        return bool(super().should_close()) or self._is_stopping() or self.request.goes_on

    @property
    def is_whole(self) -> bool:
        """Whether as many bytes went out as the head said."""
        omits_body: bool = getattr(self, "_omits_body")  # noqa: B009
        return self.response_length is None or omits_body or self.sent >= self.response_length

    def rest(self) -> bytes | None:
        """At the end: what the client sent behind its request, or None to end the connection."""
        if self.should_close() or not self.is_whole:
            return None
        try:
            return self.request.finish()
        except (OSError, ParseException):
            return None  # it is answered; where the next request begins is not known

    def default_headers(self) -> list[str]:
        """As the base's, which writes the same date out each time."""
        major, minor = cast("tuple[int, int]", self.request.version)
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        framing = "Transfer-Encoding: chunked\r\n" if self.chunked else ""
        return [
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n{framing}"
        ]

    def send_headers(self) -> None:
        if self.headers_sent:
            return
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        self._head = "".join(lines).encode("latin-1")
        self.headers_sent = True

    def write(self, arg: bytes) -> None:
        if self.headers_sent and self.chunked and arg and not self._head:
            self.sent += len(arg)  # as the base does, for each token of a stream
            self._client.send_all(chunk(arg))
            return
        super().write(arg)
        if self._head:
            self._send(b"")  # an empty piece, or one that this status does not have

    def _emit_body(self, data: bytes) -> None:
        self._send(chunk(data) if self.chunked else data)

    def close(self) -> None:
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        head, self._head = self._head, b""
        if head and len(data) <= _JOIN_LIMIT:
            data = head + data
        elif head:
            self._client.send_all(head)
        if data:
            self._client.send_all(data)


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; not the last one, so not empty."""
    return b"%X\r\n%b\r\n" % (len(data), data)


# What differs between the requests of one head: what belongs to the connection, and to the one request.
_OF_CONNECTION = ("gunicorn.socket", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", PRESENCE)
_OF_REQUEST = ("CONTENT_LENGTH", "wsgi.input", LEAVE_LINE)


class Turns:
    """Makes request, response and environ of what a connection brings into the pool. Thread-safe."""

    def __init__(self, config: Any, is_stopping: Callable[[], bool]) -> None:
        self._config = config
        self._is_stopping = is_stopping
        self._heads = KnownHeads()

    def begin(self, client: ClientSocket) -> tuple[OneSendResponse, dict[str, Any]]:
        """The response to be, and the environ for the app. Raises the parser's errors."""
        head, body = client.head, client.framing.known_body
        if head is None or body is None:
            return self._parse(client)
        response = OneSendResponse(head, client.sock, self._config, client, self._is_stopping)
        environ = {**head.environ, **client.environ}
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        return response, environ

    def _parse(self, client: ClientSocket) -> tuple[OneSendResponse, dict[str, Any]]:
        request = ParsedRequest(self._config, client)
        make: Any = create
        response, environ = make(
            request,
            client.sock,
            client.address,
            client.server,
            self._config,
            response_class=OneSendResponse,
            response_args=(client, self._is_stopping),
        )
        environ["wsgi.multithread"] = True
        # It would send a head of its own, before the one that leaves with the body.
        del environ["wsgi.early_hints"]
        environ[PRESENCE] = client.presence
        environ[LEAVE_LINE] = client.body_is_read
        self._learn(client, request, environ)
        return response, environ

    def _learn(self, client: ClientSocket, request: Any, environ: Mapping[str, Any]) -> None:
        """Know the head of the connection's next request, should it be the same."""
        around = client.framing.around_length
        if around is None:
            return
        client.environ = {name: environ[name] for name in _OF_CONNECTION}
        client.head = self._heads.find(*around)
        if client.head is None:
            others = {*_OF_CONNECTION, *_OF_REQUEST}
            shared = {name: value for name, value in environ.items() if name not in others}
            closes = bool(request.should_close())
            client.head = KnownHead(*around, request.method, request.version, closes, shared)
            self._heads.learn(client.head)

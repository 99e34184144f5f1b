"""gunicorn's parser and response for one request whose beginning the poller has read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader
from gunicorn.http.wsgi import Response, create

from pyworker.client_socket import ClientSocket
from pyworker.disconnect import PRESENCE
from pyworker.framing import Verdict
from pyworker.poller import BODY_BYTES_PER_SECOND, BODY_SECONDS

_JOIN_LIMIT = 64 * 1024


class Source(Unreader):
    """What was read already, and the rest of a large body within its deadline; then the end.

    A request that the poller takes for whole is never waited for here: where the parser wants more of it, the
    parser is told that there is nothing.
    """

    def __init__(self, client: ClientSocket) -> None:
        super().__init__()
        self.buf.write(client.framing.received)
        self._client = client
        self.is_whole = client.verdict is Verdict.WHOLE
        self._may_read = client.verdict is Verdict.BEGUN
        self._deadline = time.monotonic() + BODY_SECONDS
        self._read = 0
        self.is_past_head = False
        # How much of it is still to come; of chunks one cannot know.
        self._left = client.framing.missing

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Some more; raises TimeoutError for a body that came slower than it must.

        The deadline moves with what has come, so that a large length alone buys no time.
        """
        left = self._deadline + self._read / BODY_BYTES_PER_SECOND - time.monotonic()
        if not self._may_read:
            return b""
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


def parse(config: Any, client: ClientSocket) -> Request:
    """The request as gunicorn's strict parser reads it; raises its errors."""
    source = Source(client)
    request: Any = Request(config, source, client.address)
    source.is_past_head = True
    # The poller has said so already where the client waited for it.
    request._expected_100_continue = False
    return request


def finish_body(request: Any) -> bytes:
    """Pass over what the app did not read; the bytes behind the request. Raises the parser's errors."""
    while request.body.read(_JOIN_LIMIT):
        pass
    return request.unreader.take_buffered()


class OneSendResponse(Response):
    """gunicorn's response, but the head leaves together with the first piece of the body: one system call.

    It also says that the connection ends where the rest of the request is still on its way, and knows whether
    all of the body was sent.
    """

    def __init__(
        self, req: Any, sock: Any, cfg: Any, client: ClientSocket, is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__(req, sock, cfg)
        self._client = client
        self._head = b""
        self._is_stopping = is_stopping

    def should_close(self) -> bool:
        # Asked when the head is made and again at the end; the worker may begin to stop between the two.
        return bool(super().should_close()) or self._is_stopping() or self._request_goes_on()

    def _request_goes_on(self) -> bool:
        body: Any = self.req.body
        source: Any = self.req.unreader
        reader = body.reader
        if body.failed:
            return True
        if source.is_whole:
            return False
        if isinstance(reader, LengthReader):
            return reader.length > 0
        return isinstance(reader, ChunkedReader) and reader.parser is not None

    @property
    def is_whole(self) -> bool:
        """Whether as many bytes went out as the head said."""
        omits_body: bool = getattr(self, "_omits_body")  # noqa: B009
        return self.response_length is None or omits_body or self.sent >= self.response_length

    def send_headers(self) -> None:
        if self.headers_sent:
            return
        lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
        self._head = "".join(lines).encode("latin-1")
        self.headers_sent = True

    def write(self, arg: bytes) -> None:
        super().write(arg)
        if self._head:
            self._send(b"")  # an empty piece, or one that this status does not have

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

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


def respond(
    config: Any, client: ClientSocket, request: Request, is_stopping: Callable[[], bool]
) -> tuple[OneSendResponse, dict[str, Any]]:
    """The response to be, and the environ for the app."""
    make: Any = create
    response, environ = make(
        request,
        client.sock,
        client.address,
        client.server,
        config,
        response_class=OneSendResponse,
        response_args=(client, is_stopping),
    )
    environ["wsgi.multithread"] = True
    environ[PRESENCE] = client.presence
    return response, environ

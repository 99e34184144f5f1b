"""Header blocks that clients send again and again: parsed once, then recognized by their bytes.

The client of an API sends the same header block with each request, but for the length of its body. If every
other byte is the same, so is what the parser makes of it. So this module decides nothing; it compares.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gunicorn.http.wsgi import create

from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.framing import Verdict
from pyworker.downstream.request import ParsedRequest
from pyworker.downstream.response import ClientResponse
from pyworker.wsgi_extensions import LEAVE_LINE, PRESENCE

#: Longer header blocks are parsed each time. When the cache is full, it begins anew.
MAX_CACHED_HEAD = 4096
MAX_CACHED_HEADS = 64
_MAX_DIGITS = 15

# Keys of an environ that differ between requests of one connection with the same header block.
_OF_REQUEST = ("CONTENT_LENGTH", "wsgi.input", LEAVE_LINE)


@dataclass(frozen=True)
class CachedHead:
    """A header block around the digits of its Content-Length, and what the parser made of it. Immutable.

    environ: what every request with this header block has in its WSGI environ, whoever sent it. To a response
    this is a request that was received completely.
    """

    before: bytes
    after: bytes
    method: str
    version: tuple[int, int]
    closes: bool
    environ: Mapping[str, Any]

    def body_in(self, received: bytes) -> bytes | None:
        """The body, if this is one whole request with this header block and nothing behind it."""
        start, after = len(self.before), self.after
        if not received.startswith(self.before):
            return None
        end = received.find(after, start, start + _MAX_DIGITS + len(after))
        digits = received[start:end]
        if end < 0 or not digits.isdigit() or int(digits) != len(received) - end - len(after):
            return None
        return received[end + len(after) :]

    def should_close(self) -> bool:
        """Whether its client wants the connection to end with the response."""
        return self.closes

    @property
    def is_unread(self) -> bool:
        """Whether the rest of the request has not been received."""
        return False

    def finish(self) -> bytes:
        """The bytes behind the request."""
        return b""


class HeadCache:
    """Makes response and environ of each request of one process. Thread-safe: two threads may parse the same
    header block, and nothing worse.
    """

    def __init__(self, config: Any, is_stopping: Callable[[], bool]) -> None:
        self._config = config
        self._is_stopping = is_stopping
        self._heads: dict[tuple[bytes, bytes], CachedHead] = {}

    def begin(self, client: ClientSocket) -> tuple[ClientResponse, dict[str, Any]]:
        """The response to be, and the environ for the app. Raises the parser's errors."""
        body = client.framing.known_body
        if body is None:
            body = self._find(client)
        head = client.head
        if head is None or body is None:
            return self._parse(client)
        response = ClientResponse(head, client.sock, self._config, client, self._is_stopping)
        environ = {**head.environ, **client.environ}
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        return response, environ

    def _find(self, client: ClientSocket) -> bytes | None:
        """The body of a request whose header block was cached for another connection, or earlier."""
        framing = client.framing
        around = framing.around_length
        if around is None or client.verdict is not Verdict.WHOLE:
            return None
        head = self._heads.get(around)
        body = head and head.body_in(framing.received)
        if body is not None:
            client.head = head
            client.environ = client.environ or _connection_environ(client)
        return body

    def _parse(self, client: ClientSocket) -> tuple[ClientResponse, dict[str, Any]]:
        request = ParsedRequest(self._config, client)
        make: Any = create
        response, environ = make(
            request,
            client.sock,
            client.address,
            client.listener.address,
            self._config,
            response_class=ClientResponse,
            response_args=(client, self._is_stopping),
        )
        environ["wsgi.multithread"] = True
        environ["wsgi.url_scheme"] = "https" if client.is_tls else "http"
        # It would send a header block of its own, before the one that is sent with the body.
        del environ["wsgi.early_hints"]
        environ[PRESENCE] = client.presence
        environ[LEAVE_LINE] = client.body_is_read
        self._learn(client, request, environ)
        return response, environ

    def _learn(self, client: ClientSocket, request: Any, environ: Mapping[str, Any]) -> None:
        """Recognize this header block from now on, unless it is too long."""
        around = client.framing.around_length
        if around is None:
            return
        own = client.environ = client.environ or _connection_environ(client)
        shared = {
            name: value for name, value in environ.items() if name not in own and name not in _OF_REQUEST
        }
        head = CachedHead(*around, request.method, request.version, bool(request.should_close()), shared)
        client.head = head
        if len(head.before) + len(head.after) <= MAX_CACHED_HEAD:
            if len(self._heads) >= MAX_CACHED_HEADS:
                self._heads.clear()
            self._heads[around] = head

    def __repr__(self) -> str:
        return f"<HeadCache [{len(self._heads)}]>"


def _connection_environ(client: ClientSocket) -> dict[str, Any]:
    """As gunicorn's `create` fills it in, for a client with an IP address."""
    address, server = client.address, client.listener.address
    return {
        "gunicorn.socket": client.sock,
        "REMOTE_ADDR": address[0],
        "REMOTE_PORT": str(address[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "wsgi.url_scheme": "https" if client.is_tls else "http",
        PRESENCE: client.presence,
    }

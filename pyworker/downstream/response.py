"""The response to a client: gunicorn's, with fewer system calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from gunicorn.http.errors import ParseException
from gunicorn.http.wsgi import Response
from gunicorn.util import http_date, is_hoppish

from pyworker.downstream.connection import ClientSocket
from pyworker.runtime.limits import COPY_SIZE

if TYPE_CHECKING:
    from pyworker.downstream.head_cache import CachedHead
    from pyworker.downstream.request import ParsedRequest


# Names of header fields that the base class has found good and passes on. Adding to a set is atomic.
_plain_names: set[str] = set()
_MAX_NAMES = 256


@functools.lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return http_date(seconds)


class ClientResponse(Response):
    """gunicorn's response, but the header block is sent together with the first piece of the body.

    It also ends the connection if the rest of the request has not been received, and knows whether all of the
    body was sent.
    """

    def __init__(
        self, req: Any, sock: Any, cfg: Any, client: ClientSocket, is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__(req, sock, cfg)
        self.request: ParsedRequest | CachedHead = req
        self._client = client
        self._head = b""
        self._is_stopping = is_stopping

    def should_close(self) -> bool:
        # Asked for the header block and again at the end; the worker may begin to stop between the two.
        return bool(super().should_close()) or self._is_stopping() or self.request.is_unread

    @property
    def is_whole(self) -> bool:
        """Whether as many bytes were sent as the header block said."""
        omits_body: bool = getattr(self, "_omits_body")  # noqa: B009
        return self.response_length is None or omits_body or self.sent >= self.response_length

    def rest(self) -> bytes | None:
        """At the end: what the client sent behind its request, or None to end the connection."""
        if self.should_close() or not self.is_whole:
            return None
        try:
            return self.request.finish()
        except (OSError, ParseException):
            return None  # where the next request begins is not known

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """As the base class's, which looks at the same names again for each response."""
        passed_on = cast("list[tuple[str, str]]", self.headers)
        for name, value in headers:
            if name in _plain_names and value.isascii() and value.isprintable():
                passed_on.append((name, value.strip(" ")))
                continue
            if name == "Content-Length" and value.isascii() and value.isdecimal():
                self.response_length = int(value)
                passed_on.append((name, value))
                continue
            super().process_headers([(name, value)])
            is_plain = name.lower() != "content-length" and not is_hoppish(name)
            if is_plain and len(_plain_names) < _MAX_NAMES:
                _plain_names.add(name)

    def default_headers(self) -> list[str]:
        """As the base class's, which formats the same date each time."""
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
            self.sent += len(arg)  # as the base class does, but in fewer steps for each token of a stream
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
        if head and len(data) <= COPY_SIZE:
            data = head + data
        elif head:
            self._client.send_all(head)
        if data:
            self._client.send_all(data)


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; not the last one, so not empty."""
    return b"%X\r\n%b\r\n" % (len(data), data)

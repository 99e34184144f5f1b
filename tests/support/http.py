"""HTTP as a test sees it: raw sockets, so that each byte and its moment can be looked at."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from typing_extensions import Self

from tests.support.waiting import DEADLINE

_request_indices = itertools.count(1)


def next_request_idx() -> int:
    """An index that no other request of this run has."""
    return next(_request_indices)


@dataclass(frozen=True)
class Answer:
    """A whole answer. `complete` is False where it was cut."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def header(self, name: str) -> str | None:
        """The first header of this name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def all_headers(self, name: str) -> list[str]:
        """Every header of this name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body, parsed."""
        assert (self.header("Content-Type") or "").startswith("application/json"), self
        return json.loads(self.body)

    def object(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        value = self.json()
        assert isinstance(value, dict), self
        return cast("dict[str, Any]", value)


class RawClient:
    """One connection to a server. Belongs to one thread, except for `hang_up`."""

    def __init__(
        self,
        url: str,
        timeout: float = DEADLINE,
        connection: socket.socket | None = None,
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """connection: one that is made already; context: for TLS, without it any certificate will do."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = connection or socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self.socket.settimeout(timeout)
        if parts.scheme == "https":
            self.socket = _over_tls(self.socket, parts.hostname, context or _trusting_anybody())
        self._buffer = b""
        self.headers: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection in the ordinary way."""
        self.socket.close()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole request."""
        self.send(request_bytes("POST", path, body, headers))

    def receive(self) -> bool:
        """Take what comes next into the buffer; False at the end of the connection."""
        data = self.socket.recv(65536)
        self._buffer += data
        return bool(data)

    def until(self, end: bytes) -> bytes:
        """Everything up to `end`, which is taken too."""
        while end not in self._buffer:
            if not self.receive():
                raise EOFError(f"the connection ended before {end!r}: {self._buffer!r}")
        taken, _, self._buffer = self._buffer.partition(end)
        return taken

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < count:
            if not self.receive():
                raise EOFError(f"the connection ended after {len(self._buffer)} of {count} bytes")
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def rest(self) -> bytes:
        """Everything until the connection ends, or is reset."""
        with contextlib.suppress(ConnectionResetError):
            while self.receive():
                pass
        taken, self._buffer = self._buffer, b""
        return taken

    def head(self) -> int:
        """The status of the next answer; its headers are in `headers`."""
        status_line, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return int(status_line.split()[1])

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its proper end."""
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data

    def rest_of_answer(self) -> bytes:
        """The chunks still to come of a chunked body, joined."""
        body = b""
        assert self.exactly(2) == b"\r\n", "not at the end of a chunk"
        while chunk := self.chunk():
            body += chunk
        return body

    def answer(self) -> Answer:
        """The next answer, whatever its framing; `complete` tells whether it came to its end."""
        status = self.head()
        found = Answer(status, self.headers, b"")
        length = found.header("Content-Length")
        body = b""
        complete = True
        try:
            if found.header("Transfer-Encoding") == "chunked":
                while chunk := self.chunk():
                    body += chunk
            elif length is not None:
                body = self.exactly(int(length))
            elif status not in (204, 304):
                body = self.rest()
        except (EOFError, ConnectionResetError, ValueError):
            complete = False
            body += self._buffer
        return Answer(status, self.headers, body, complete)

    def __repr__(self) -> str:
        return f"<RawClient {self.socket!r}>"


def _trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _over_tls(connection: socket.socket, host: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except OSError:
        connection.close()
        raise


def request_bytes(method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A request with Content-Length."""
    fields = {"Host": "worker", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ask(
    url: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own."""
    with RawClient(url) as client:
        client.send(request_bytes(method, path, body, {"Connection": "close", **(headers or {})}))
        return client.answer()

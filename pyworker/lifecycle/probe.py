"""A small GET that asks the model server for its health, with one deadline and a bounded response."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import re
import socket
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import SplitResult, unquote, urlsplit

from requests.utils import requote_uri

from pyworker.errors import PyworkerError
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.origin import Origin

#: Seconds for a whole probe: connecting, request and response.
TIMEOUT = 10.0
#: Bytes of a body that are passed on.
MAX_BODY = 256 * 1024
# Bytes of all header blocks, including those of interim responses.
_MAX_HEAD = 256 * 1024
_MAX_LINE = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/\d\.\d (\d{3})(?=\s|$)")
_RELAYED = ("Content-Type", "Content-Encoding", "Retry-After")


class ProbeFailed(PyworkerError):
    """There was no response; the message says so and names the URL. is_late: within the deadline."""

    def __init__(self, message: str, *, is_late: bool = False) -> None:
        super().__init__(message)
        self.is_late = is_late


@dataclass(frozen=True)
class HealthResponse:
    """What the model server responded.

    body: None if it was incomplete at the deadline, broke off, or is longer than the probe allows.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes | None


class HealthProbe:
    """Asks one URL. Thread-safe: each call uses its own connection, and `close` aborts them all."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        ca_file: Path | None = None,
        timeout: float = TIMEOUT,
        max_body: int = MAX_BODY,
    ) -> None:
        """ca_file: as for `Origin`, whose `ConfigError` goes on. max_body: bytes that `fetch` takes."""
        self._origin = Origin(url, ca_file)
        parts = urlsplit(url)
        #: The URL without what may be a secret: user, password and query.
        self.name = f"{parts.scheme}://{self._origin.host}{parts.path}"
        self._request = _request(parts, self._origin.host, api_key)
        self._timeout = timeout
        self._max_body = max_body
        # Guards _calls and _is_closed.
        self._lock = threading.Lock()
        self._calls: set[ModelCall] = set()
        self._is_closed = False

    def problem(self) -> str:
        """Empty if the model server is healthy, else why not. Reads the status line only."""
        try:
            with self._asked() as reader:
                status = _final_status(reader.buffer)
        except ProbeFailed as error:
            return str(error)
        return "" if 200 <= status < 300 else f"{self.name} answered {status}"

    def fetch(self) -> HealthResponse:
        """The whole response; raises `ProbeFailed`."""
        with self._asked() as reader:
            # Interim responses are kept: one that is garbage-collected closes the shared buffer.
            responses = [_next_response(reader)]
            while responses[-1].status < 200:
                responses.append(_next_response(reader))
            final = responses[-1]
            headers = [(name, value) for name, value in final.getheaders() if name.title() in _RELAYED]
            return HealthResponse(final.status, headers, _whole_body(final, self._max_body))

    def close(self) -> None:
        """Abort every probe under way, and refuse others from now on."""
        with self._lock:
            self._is_closed = True
            for call in self._calls:
                call.abort()

    @contextlib.contextmanager
    def _asked(self) -> Generator[_TimedReader]:
        """A connection on which the request was sent; every failure becomes `ProbeFailed`."""
        deadline = time.monotonic() + self._timeout
        call = ModelCall()
        with self._lock:
            self._calls.add(call)
            if self._is_closed:
                call.abort()
        try:
            with self._origin.connect(call.attach, self._timeout) as connection:
                connection.settimeout(_left(deadline))
                connection.sendall(self._request)
                yield _TimedReader(connection, deadline, _MAX_HEAD + self._max_body)
        except TimeoutError as error:
            raise ProbeFailed(f"{self.name} did not answer in {self._timeout:g} s", is_late=True) from error
        except (Aborted, OSError, http.client.HTTPException, ValueError) as error:
            raise ProbeFailed(f"{self.name} cannot be reached") from error
        finally:
            with self._lock:
                self._calls.discard(call)

    def __repr__(self) -> str:
        return f"<HealthProbe {self.name} [{len(self._calls)} open]>"


class _TimedReader(io.RawIOBase):
    """Reads a bounded number of bytes from a socket, with one deadline for all reads.

    `http.client.HTTPResponse` gets it in place of the socket, of which it only calls `makefile`.
    """

    def __init__(self, connection: socket.socket, deadline: float, limit: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._allowed = limit
        self.buffer: BinaryIO = io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(target)
        self._allowed -= count
        if self._allowed < 0:
            raise http.client.HTTPException("the response is too long")
        return count

    def makefile(self, _mode: str) -> BinaryIO:
        """The same buffer at each call."""
        return self.buffer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _request(parts: SplitResult, host: str, api_key: str) -> bytes:
    target = requote_uri((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: pyworker",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    elif api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode()


def _final_status(file: BinaryIO) -> int:
    """The status of the final response; does not wait for what follows the status line."""
    while True:
        found = _STATUS_LINE.match(file.readline(_MAX_LINE))
        if found is None:
            raise http.client.BadStatusLine("no HTTP")
        status = int(found[1])
        if status >= 200:
            return status
        while file.readline(_MAX_LINE).strip():
            pass  # the header block of an interim response


def _next_response(reader: _TimedReader) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast("Any", reader), method="GET")
    response.begin()
    return response


def _whole_body(response: http.client.HTTPResponse, limit: int) -> bytes | None:
    try:
        body = response.read(limit + 1)
        # `length` is what Content-Length promised and has not arrived.
        is_whole = len(body) <= limit and not response.length
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return body if is_whole else None

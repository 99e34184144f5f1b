"""A transport adapter for the model server: `requests` on the outside, few system calls on the inside.

`ModelAdapter` is mounted on the session for the model server's origin. It differs from the adapter that comes
with requests in four ways: head and body leave in one `sendall`; connections are reused last in, first out;
a request is repeated only where a *reused* connection broke before it returned a byte; and a call can be
aborted from another thread at any moment (`ModelCall.abort`). Responses are handed out as an ordinary
`requests.Response` whose `raw` is a `urllib3` response.
"""

from __future__ import annotations

import contextlib
import http.client
from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from pyworker.answer import Answer
from pyworker.connection import Aborted, Connection, ModelCall, StaleConnection


class _Body(HTTPResponse):
    """The response as urllib3 shows it. Its connection goes back to the pool after the last byte only."""

    def __init__(self, answer: Answer, method: str, release: Callable[[bool], None]) -> None:
        super().__init__(
            body=cast("Any", answer),
            headers=HTTPHeaderDict(answer.msg.items()),
            status=answer.status,
            version=answer.version,
            reason=answer.reason,
            preload_content=False,
            decode_content=False,
            original_response=cast("Any", answer),
            enforce_content_length=True,
            request_method=method,
        )
        self._answer = answer
        self._release: Callable[[bool], None] | None = release
        if self.length_remaining == 0:
            self._end(complete=True)

    def read(
        self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False
    ) -> bytes:
        with self._ending_at_error():
            data = super().read(amt, decode_content, cache_content)
        self._end_where_read(data, amt)
        return data

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        try:
            data = super().read1(amt, decode_content)
        except BaseException:
            self._end(complete=False)
            raise
        self._end_where_read(data, amt)
        return data

    def _raw_read(self, amt: int | None = None, *, read1: bool = False) -> bytes:
        """As urllib3's, for a third of its time."""
        try:
            data = self._answer.read1(amt) if read1 else self._answer.read(amt)
        except TimeoutError as error:
            raise ReadTimeoutError(cast("Any", None), "", "Read timed out.") from error
        except (http.client.HTTPException, OSError) as error:
            raise ProtocolError(f"Connection broken: {error!r}", error) from error
        self._fp_bytes_read += len(data)
        if self.length_remaining is not None:
            self.length_remaining -= len(data)
        return data

    def stream(
        self, amt: int | None = 2**16, decode_content: bool | None = None
    ) -> Generator[bytes, None, None]:
        """Each piece as it comes, of at most `amt` bytes, whatever the framing."""
        while piece := self.read1(amt, decode_content):
            yield piece

    def release_conn(self) -> None:
        """Called by urllib3 whenever it closes its file; the connection itself is released by `_end`."""

    def close(self) -> None:
        super().close()
        self._end(complete=False)

    @contextlib.contextmanager
    def _ending_at_error(self) -> Generator[None, None, None]:
        """A body that breaks off takes its connection with it."""
        try:
            yield
        except BaseException:
            self._end(complete=False)
            raise

    def _end_where_read(self, data: bytes, amt: int | None) -> None:
        if self.length_remaining == 0 or amt is None or (amt > 0 and not data):
            self._end(complete=self.length_remaining in (None, 0))

    def _end(self, *, complete: bool) -> None:
        release, self._release = self._release, None
        if release is not None:
            release(complete and not self._answer.will_close and not self._answer.leftover)


class ModelAdapter(HTTPAdapter):
    """Requests to one `http://` origin over a pool of kept connections. Thread-safe.

    api_key is sent as a bearer token; pool_size bounds the idle connections that are kept. A request with a
    body that is neither bytes nor text takes the way of the adapter that comes with requests.
    """

    def __init__(self, base_url: str, *, api_key: str = "", pool_size: int = 10) -> None:
        super().__init__(pool_maxsize=pool_size, max_retries=0)
        parts = urlsplit(base_url)
        self._address = (parts.hostname or "localhost", parts.port or 80)
        self._host = parts.netloc.rpartition("@")[2]
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._is_plain = parts.scheme == "http"
        # A bounded deque used from its right end: append and pop are atomic, so it needs no lock.
        self._idle: deque[Connection] = deque(maxlen=pool_size)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """As any adapter: the response to a prepared request, or an exception of requests."""
        if not self._is_plain or not _is_whole(request.body):
            self._authorize(request)
            proxy_map = dict(proxies) if proxies else None
            return super().send(request, stream, cast("Any", timeout), verify, cert, proxy_map)
        read_timeout = timeout[1] if isinstance(timeout, tuple) else timeout
        response = self.call(request, ModelCall(), read_timeout)
        if not stream:
            _ = response.content
        return response

    def call(
        self, request: requests.PreparedRequest, call: ModelCall, timeout: float | None
    ) -> requests.Response:
        """Send, and return as soon as the head of the answer is here. Raises `Aborted` once `call` is."""
        self._authorize(request)
        method = request.method or "GET"
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        head = self._head(request, method, len(body))
        try:
            connection, answer = self._exchange(method, head, body, call, timeout)
        except Exception as error:
            call.attach(None)
            if call.aborted:
                raise Aborted from error
            raise _translated(error, request) from error

        def release(reusable: bool) -> None:
            call.attach(None)
            answer.close()
            self._give_back(connection, reusable and not call.aborted)

        try:
            return self.build_response(request, _Body(answer, method, release))
        except HTTPError as error:  # such as two lengths that contradict each other
            release(False)
            raise _translated(error, request) from error

    def _authorize(self, request: requests.PreparedRequest) -> None:
        if self._authorization is not None:
            request.headers["Authorization"] = self._authorization

    def _exchange(
        self, method: str, head: bytes, body: bytes, call: ModelCall, timeout: float | None
    ) -> tuple[Connection, Answer]:
        while True:
            connection = self._take()
            try:
                call.attach(connection.socket)
                answer = connection.exchange(method, head, body, timeout)
            except StaleConnection:
                connection.close()
                if call.aborted:
                    raise
                continue  # ends: each round uses up an idle connection, and a new one is never stale
            except BaseException:
                connection.close()
                raise
            return connection, answer

    def _take(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self._address)
            if connection.is_idle:
                connection.reused = True
                return connection
            connection.close()

    def _give_back(self, connection: Connection, reusable: bool) -> None:
        if reusable and len(self._idle) < (self._idle.maxlen or 0):
            self._idle.append(connection)
        else:
            connection.close()

    def _head(self, request: requests.PreparedRequest, method: str, length: int) -> bytes:
        lines = [f"{method} {request.path_url} HTTP/1.1", f"Host: {self._host}"]
        for name, value in request.headers.items():
            if name.lower() not in ("host", "content-length"):
                lines.append(f"{name}: {_text(value)}")
        if length or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def close(self) -> None:
        """Close every idle connection."""
        super().close()
        while self._idle:
            self._idle.pop().close()

    def __repr__(self) -> str:
        return f"<ModelAdapter {self._host} [{len(self._idle)} idle]>"


def _is_whole(body: object) -> bool:
    """Whether a body is in memory already; requests also allows files and generators."""
    return body is None or isinstance(body, (bytes, str))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _translated(error: Exception, request: requests.PreparedRequest) -> Exception:
    """The exception of requests that says the same."""
    if isinstance(error, TimeoutError):
        return requests.exceptions.ReadTimeout("no answer in time", request=request)
    if isinstance(error, (OSError, http.client.HTTPException, HTTPError, StaleConnection)):
        return requests.exceptions.ConnectionError(f"{type(error).__name__}: {error}", request=request)
    return error

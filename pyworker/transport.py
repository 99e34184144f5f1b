"""A transport adapter for the model server: `requests` on the outside, few system calls on the inside.

`ModelAdapter` is mounted on the session for the model server's origin. It differs from the adapter that comes
with requests in four ways: head and body leave in one `sendall`; connections are reused last in, first out;
a request is repeated only where a *reused* connection broke before it returned a byte; and a call can be
aborted from another thread at any moment (`ModelCall.abort`). Responses behave as an ordinary
`requests.Response` whose `raw` is a `urllib3` response; they are made when somebody looks (`model_response`).
"""

from __future__ import annotations

import http.client
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from pyworker.answer import Answer
from pyworker.connection import Aborted, Connection, ModelCall, StaleConnection
from pyworker.model_response import Body, ModelResponse
from pyworker.thread_pool import waiting


@dataclass(frozen=True)
class Target:
    """A request without its body. Immutable.

    start: its request line and headers, without the end of the last line.
    """

    method: str
    start: bytes
    request: requests.PreparedRequest

    def head_for(self, length: int) -> bytes:
        """The head of a request with a body of so many bytes."""
        if length or self.method in ("POST", "PUT", "PATCH"):
            return b"%b\r\nContent-Length: %d\r\n\r\n" % (self.start, length)
        return self.start + b"\r\n\r\n"


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
            with waiting:
                return super().send(request, stream, cast("Any", timeout), verify, cert, proxy_map)
        read_timeout = timeout[1] if isinstance(timeout, tuple) else timeout
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        response = self.call(self.target(request), body, ModelCall(), read_timeout)
        if not stream:
            _ = response.content
        return response

    def target(self, request: requests.PreparedRequest) -> Target:
        """What a request of this method, URL and headers sends, whatever its body."""
        self._authorize(request)
        method = request.method or "GET"
        lines = [f"{method} {request.path_url} HTTP/1.1", f"Host: {self._host}"]
        for name, value in request.headers.items():
            if name.lower() not in ("host", "content-length"):
                lines.append(f"{name}: {_text(value)}")
        return Target(method, "\r\n".join(lines).encode("latin-1"), request)

    def call(self, target: Target, body: bytes, call: ModelCall, timeout: float | None) -> ModelResponse:
        """Send, and return as soon as the head of the answer is here. Raises `Aborted` once `call` is.

        The response's `request` is the target's.
        """
        try:
            connection, answer = self._exchange(target, body, call, timeout)
        except Exception as error:
            call.attach(None)
            if call.aborted:
                raise Aborted from error
            raise _translated(error, target.request) from error

        def release(reusable: bool) -> None:
            call.attach(None)
            self._give_back(connection, reusable and not call.aborted)

        answer.call_at_end(release)
        return ModelResponse(answer, lambda: self.build_response(target.request, Body(answer, target.method)))

    def _authorize(self, request: requests.PreparedRequest) -> None:
        if self._authorization is not None:
            request.headers["Authorization"] = self._authorization

    def _exchange(
        self, target: Target, body: bytes, call: ModelCall, timeout: float | None
    ) -> tuple[Connection, Answer]:
        head = target.head_for(len(body))
        while True:
            connection = self._take()
            try:
                call.attach(connection.socket)
                answer = connection.exchange(target.method, head, body, timeout)
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

"""A transport adapter for the model server: `requests` on the outside, few system calls on the inside.

`ModelAdapter` is mounted on the session for the model server's origin. It differs from the adapter that comes
with requests in five ways: header block and body leave in one system call; connections are reused last in,
first out; a request is repeated only if the kernel proves that nothing of it was executed, once and on a new
connection; a refusal that comes while the body is sent is the response; and a call can be aborted from
another thread at any moment (`ModelCall.abort`). Plain and TLS take the same way. Responses behave as an
ordinary `requests.Response` whose `raw` is a `urllib3` response; they are made when somebody looks
(`model_response`).
"""

from __future__ import annotations

import http.client
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from pyworker.answer import Aborted, Answer
from pyworker.connection import Connection, ModelCall, StaleConnection
from pyworker.faults import describe
from pyworker.model_response import Body, ModelResponse
from pyworker.origin import Origin
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
    """Requests to one origin over a pool of kept connections. Thread-safe.

    api_key is sent as a bearer token; pool_size bounds the idle connections that are kept. A request whose
    body is neither bytes nor text, or that comes with certificates of its own, takes the way of the adapter
    that comes with requests.
    """

    def __init__(self, origin: Origin | str, *, api_key: str = "", pool_size: int = 10) -> None:
        super().__init__(pool_maxsize=pool_size, max_retries=0)
        self.origin = Origin(origin) if isinstance(origin, str) else origin
        self._authorization = f"Bearer {api_key}" if api_key else None
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
        ca_file = self.origin.ca_file
        is_special = self.origin.is_tls and (cert is not None or verify is not True)
        if is_special or not _is_whole(request.body):
            self._authorize(request)
            trusted = str(ca_file) if verify is True and ca_file is not None else verify
            proxy_map = dict(proxies) if proxies else None
            with waiting:
                return super().send(request, stream, cast("Any", timeout), trusted, cert, proxy_map)
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
        lines = [f"{method} {request.path_url} HTTP/1.1", f"Host: {self.origin.host}"]
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
        connection = self._take(call)
        try:
            try:
                return connection, connection.exchange(target.method, head, body, timeout, call)
            except StaleConnection:
                connection.close()
                # A new one, which is never stale: the idle ones may all have been closed at the same time.
                connection = Connection(self.origin, call)
                return connection, connection.exchange(target.method, head, body, timeout, call)
        except BaseException:
            connection.close()
            raise

    def _take(self, call: ModelCall) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self.origin, call)
            if connection.is_idle:
                break
            connection.close()
        connection.reused = True
        try:
            call.attach(connection.socket)
        except Aborted:
            connection.close()
            raise
        return connection

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
        return f"<ModelAdapter {self.origin.host} [{len(self._idle)} idle]>"


def _is_whole(body: object) -> bool:
    """Whether a body is in memory already; requests also allows files and generators."""
    return body is None or isinstance(body, (bytes, str))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _translated(error: Exception, request: requests.PreparedRequest) -> Exception:
    """The exception of requests that says the same."""
    if isinstance(error, TimeoutError):
        return requests.exceptions.ReadTimeout(describe(error), request=request)
    if isinstance(error, (OSError, http.client.HTTPException, HTTPError)):
        return requests.exceptions.ConnectionError(describe(error), request=request)
    return error

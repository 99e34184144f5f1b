"""A transport adapter for the model server: `requests` on the outside, few system calls on the inside.

It differs from the adapter of requests in five ways: header block and body leave in one system call;
connections are reused last in, first out; a request is repeated only if the kernel proves that nothing of it
was executed, once and on a new connection; a refusal that arrives while the body is being sent is the
response; and another thread can abort a call at any moment.
"""

from __future__ import annotations

import functools
import http.client
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.connection import Connection, StaleConnection
from pyworker.upstream.faults import describe
from pyworker.upstream.lazy_response import LazyResponse, RawResponse
from pyworker.upstream.origin import Origin
from pyworker.upstream.response_reader import ResponseReader

_KNOWN_TEMPLATES = 64
#: Header fields that tell which request this is; their values hold no line end.
Trace = Sequence[tuple[str, str]]


class ModelRequest(requests.PreparedRequest):
    """A prepared request that shares all but its body with a template, and whose call can be aborted.

    template: method, URL and headers, without Content-Length. trace: header fields of this request alone.
    """

    def __init__(
        self, template: requests.PreparedRequest, body: bytes, call: ModelCall, trace: Trace = ()
    ) -> None:
        # Not the base's, which makes new objects of what the template has.
        self.method, self.url, self.headers = template.method, template.url, template.headers
        self.body = self.content = body
        self.template = template
        self.call = call
        self.trace = trace

    def full(self) -> requests.PreparedRequest:
        """The same as an ordinary request, for adapters that are not ours."""
        request = self.template.copy()
        request.body = self.content
        request.prepare_content_length(self.content)
        request.headers.update(self.trace)
        return request


class ModelAdapter(HTTPAdapter):
    """Requests to one origin over a pool of kept connections. Thread-safe.

    api_key is sent as a bearer token; pool_size bounds the idle connections that are kept. A request whose
    body is neither bytes nor text, or that has its own certificates, is sent by the adapter of requests.
    """

    def __init__(self, origin: Origin | str, *, api_key: str = "", pool_size: int = 10) -> None:
        super().__init__(pool_maxsize=pool_size, max_retries=0)
        self.origin = Origin(origin) if isinstance(origin, str) else origin
        self._authorization = f"Bearer {api_key}" if api_key else None
        # A bounded deque used from its right end: append and pop are atomic, so it needs no lock.
        self._idle: deque[Connection] = deque(maxlen=pool_size)
        self._start_of = functools.lru_cache(maxsize=_KNOWN_TEMPLATES)(self._render)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The response to a prepared request, or an exception of requests.

        A `ModelRequest` is always streamed, and raises `Aborted` once its call is aborted.
        """
        read_timeout = timeout[1] if isinstance(timeout, tuple) else timeout
        if isinstance(request, ModelRequest):
            template = request.template
            start = self._start_of(template)
            if request.trace:
                fields = "".join(f"\r\n{name}: {value}" for name, value in request.trace)
                start += fields.encode("latin-1")
            return self._send(template, start, request.content, request.call, read_timeout)
        ca_file = self.origin.ca_file
        is_special = self.origin.is_tls and (cert is not None or verify is not True)
        content = cast("object", request.body)  # also a file or generator
        if is_special or not (content is None or isinstance(content, (bytes, str))):
            self._authorize(request)
            trusted = str(ca_file) if verify is True and ca_file is not None else verify
            proxy_map = dict(proxies) if proxies else None
            with waiting:
                return super().send(request, stream, cast("Any", timeout), trusted, cert, proxy_map)
        body = content.encode() if isinstance(content, str) else content or b""
        response = self._send(request, self._render(request), body, ModelCall(), read_timeout)
        if not stream:
            _ = response.content
        return response

    def _render(self, request: requests.PreparedRequest) -> bytes:
        """The request line and headers, without Content-Length and the last line end."""
        self._authorize(request)
        lines = [f"{request.method} {request.path_url} HTTP/1.1", f"Host: {self.origin.host}"]
        for name, value in request.headers.items():
            if name.lower() not in ("host", "content-length"):
                text = value.decode("latin-1") if isinstance(value, bytes) else value
                lines.append(f"{name}: {text}")
        return "\r\n".join(lines).encode("latin-1")

    def _authorize(self, request: requests.PreparedRequest) -> None:
        if self._authorization is not None:
            request.headers["Authorization"] = self._authorization

    def _send(
        self,
        request: requests.PreparedRequest,
        start: bytes,
        body: bytes,
        call: ModelCall,
        timeout: float | None,
    ) -> LazyResponse:
        """start: of the header block, as rendered; request: becomes that of the response."""
        method = request.method or "GET"
        if body or method in ("POST", "PUT", "PATCH"):
            header_block = b"%b\r\nContent-Length: %d\r\n\r\n" % (start, len(body))
        else:
            header_block = start + b"\r\n\r\n"
        try:
            connection, reader = self._exchange(method, header_block, body, call, timeout)
        except Exception as error:
            call.attach(None)
            if call.aborted:
                raise Aborted from error
            raise _translated(error, request) from error

        def release(reusable: bool) -> None:
            call.attach(None)
            self._give_back(connection, reusable and not call.aborted)

        reader.call_at_end(release)
        return LazyResponse(reader, lambda: self.build_response(request, RawResponse(reader, method)))

    def _exchange(
        self, method: str, header_block: bytes, body: bytes, call: ModelCall, timeout: float | None
    ) -> tuple[Connection, ResponseReader]:
        connection = self._take(call)
        try:
            try:
                return connection, connection.exchange(method, header_block, body, timeout, call)
            except StaleConnection:
                connection.close()
                # The server may have closed all idle connections at the same time, so take a new one.
                connection = Connection(self.origin, call)
                return connection, connection.exchange(method, header_block, body, timeout, call)
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


def _translated(error: Exception, request: requests.PreparedRequest) -> Exception:
    """The equivalent exception of requests."""
    if isinstance(error, TimeoutError):
        return requests.exceptions.ReadTimeout(describe(error), request=request)
    if isinstance(error, (OSError, http.client.HTTPException, HTTPError)):
        return requests.exceptions.ConnectionError(describe(error), request=request)
    return error

"""A small threaded HTTP/1.1 server for a Flask app, started and stopped within a process.

werkzeug's own handler ends each connection after one response, which would make a busy client open a
connection for each request; the handler here reads the whole body first and so can keep them open. Responses
with a length leave in one piece, others chunk by chunk.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Response

from pyworker.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

MAX_BODY = 128 * 1024 * 1024
IDLE_SECONDS = 120.0
BACKLOG = 512
STOP_SECONDS = 20.0
MAX_CONNECTIONS = 4096
"""Each holds a thread; further clients get 503 with Retry-After."""

_FULL_BODY = b'{"error": "too many connections are open"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)


def json_errors(app: Flask) -> None:
    """Have the app respond to its errors in JSON."""

    def refused(error: RequestError) -> tuple[dict[str, object], int]:
        return dict(error.body()), error.status

    def failed(error: HTTPException) -> tuple[dict[str, object], int]:
        return {"error": error.name}, error.code or 500

    app.register_error_handler(RequestError, refused)
    app.register_error_handler(HTTPException, failed)


class _Handler(WSGIRequestHandler):
    """Serves one connection on a thread of its own; not shared."""

    protocol_version = "HTTP/1.1"
    # Header block and body leave in one packet: apart, a kept connection waits 40 ms for a delayed
    # acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.request.settimeout(cast("_Server", self.server).local.idle_seconds)
        super().setup()

    def run_wsgi(self) -> None:
        body = self._read_body()
        if body is None:
            return
        environ = self.make_environ()
        environ["wsgi.input"] = io.BytesIO(body)
        self.environ = environ
        try:
            self._respond(Response.from_app(self.server.app, environ, buffered=False))
        except OSError:
            # Without the end of the body: the client can see that it is truncated.
            self.close_connection = True

    def _read_body(self) -> bytes | None:
        """The request's body, or None if an error was sent instead."""
        if "Transfer-Encoding" in self.headers:
            return self._refuse(411)
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            return self._refuse(400)
        if int(length) > MAX_BODY:
            return self._refuse(413)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the client disconnected before the body was complete
            return None
        return body

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self._respond(Response('{"error": "the request body cannot be read"}', status))

    def _respond(self, response: Response) -> None:
        try:
            chunked = "Content-Length" not in response.headers and self.request_version != "HTTP/1.0"
            self._send_header_block(response, chunked=chunked)
            if self.command == "HEAD":
                return
            for piece in cast("Iterable[bytes]", response.response):
                if piece:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                if chunked:
                    self.wfile.flush()
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        finally:
            response.close()

    def _send_header_block(self, response: Response, *, chunked: bool) -> None:
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in response.headers:
            self.close_connection = True
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No access log."""

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name for it
        """As the base's, but that a client keeps a connection without using it is no error."""
        if not (args and isinstance(args[0], TimeoutError)):
            super().log_error(format, *args)


class _Server(ThreadedWSGIServer):
    """Keeps account of its connections, so that stopping can end and join every one of them."""

    def __init__(self, local: LocalServer, fd: int) -> None:
        self.local = local
        # Guards the table of open connections and their threads, and the threads whose connection is closed
        # already.
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._ending: list[threading.Thread] = []
        super().__init__(local.host, local.port, local.app, _Handler, fd=fd)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """On the one thread that accepts: False closes the connection."""
        with self._lock:
            if len(self._connections) < self.local.max_connections:
                return True
        with contextlib.suppress(OSError):
            request.sendall(_FULL)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name=f"{self.local.name}-{client_address[1]}",
            daemon=True,
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            thread = self._connections.pop(request, None)
            if thread is not None:
                self._ending = [thread, *(other for other in self._ending if other.is_alive())]
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No traceback for a client that has disconnected."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End every open connection and wait for its thread."""
        with self._lock:
            connections = list(self._connections)
            threads = [*self._connections.values(), *self._ending]
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(STOP_SECONDS)


@dataclass(repr=False)
class LocalServer:
    """Serves a WSGI app on threads of its own. `start` and `stop` belong to one thread.

    idle_seconds: for how long a client may keep a connection without using it.
    """

    app: WSGIApplication
    name: str
    host: str = "127.0.0.1"
    port: int = 0
    max_connections: int = MAX_CONNECTIONS
    idle_seconds: float = IDLE_SECONDS
    _server: _Server | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Bind and serve. Raises `ConfigError` if the address cannot be bound."""
        if self._server is not None:
            raise RuntimeError(f"{self!r} is running already")
        with self._bind() as listener:
            # The port stays the same if the server is started again: clients know it.
            self.port = int(listener.getsockname()[1])
            self._server = _Server(self, listener.fileno())
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.05,), name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every connection and join every thread. May be called again."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        server.shutdown()
        thread.join(STOP_SECONDS)
        server.hang_up()

    @property
    def url(self) -> str:
        """The base URL without a trailing slash; it names the real port once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            advice = "another program has taken this port; choose another with --port"
            raise ConfigError(
                f"cannot listen on {self.host}:{self.port}: {advice if taken else error}"
            ) from error

    def __repr__(self) -> str:
        return f"<LocalServer {self.name} {'at ' + self.url if self._server else 'stopped'}>"

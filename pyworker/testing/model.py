"""A model server that answers as a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

from typing_extensions import Self

from pyworker.testing.answers import Answer, whole

#: Seconds for which a test waits for something; a busy machine takes long.
DEADLINE = 30.0
_LOOK = 0.02  # seconds between two looks whether the worker is still there

#: An answer, or what makes one of a request.
Script = Answer | Callable[["ModelRequest"], Answer]


@dataclass(frozen=True)
class ModelRequest:
    """One request of the worker. gone: set once the worker has hung up before the answer's end."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    gone: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def json(self) -> Any:
        """The body, parsed; None if it is empty."""
        return json.loads(self.body) if self.body else None

    def header(self, name: str) -> str | None:
        """The header field of this name, in any case."""
        return self.headers.get(name.lower())


class ModelServer:
    """Answers every request, by the path. Any thread may call any method."""

    def __init__(self) -> None:
        # Guards everything below it but the server; notified of each request.
        self._changed = threading.Condition()
        self._default: Script = whole({"ok": True})
        self._scripts: dict[str, Script] = {}
        self._once: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._requests: list[ModelRequest] = []
        self.closing = threading.Event()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="pyworker-testing-model",
            daemon=True,
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- orders ------------------------------------------------------------------------------------------

    def answer(self, path: str, script: Script) -> None:
        """The answer to every request of this path from now on."""
        with self._changed:
            self._scripts[path] = script

    def answer_once(self, path: str, script: Script) -> None:
        """The answer to one request of this path; several are given in their order."""
        with self._changed:
            self._once[path].append(script)

    def answer_all(self, script: Script) -> None:
        """The answer to every path without one of its own; at first `{"ok": true}`."""
        with self._changed:
            self._default = script

    def forget(self) -> None:
        """As at first: no answers, and no requests."""
        with self._changed:
            self._default = whole({"ok": True})
            self._scripts.clear()
            self._once.clear()
            self._requests.clear()

    def forget_requests(self) -> None:
        """As if none had come."""
        with self._changed:
            self._requests.clear()

    # -- what came ---------------------------------------------------------------------------------------

    def requests(self, path: str | None = None) -> list[ModelRequest]:
        """What came, oldest first; those of one path, or all."""
        with self._changed:
            return [request for request in self._requests if path in (None, request.path)]

    def request(self, path: str, number: int = 1, timeout: float = DEADLINE) -> ModelRequest:
        """The request of this path with this number, from 1; waits for it. AssertionError if none comes."""
        with self._changed:
            # The lock is reentrant.
            came = self._changed.wait_for(lambda: len(self.requests(path)) >= number, timeout)
            paths = [request.path for request in self._requests]
        assert came, f"request {number} of {path} did not come within {timeout:g} s; what came: {paths}"
        return self.requests(path)[number - 1]

    def take(self, request: ModelRequest) -> Answer:
        """Keep a request; its answer."""
        with self._changed:
            self._requests.append(request)
            waiting = self._once.get(request.path)
            script = waiting.popleft() if waiting else self._scripts.get(request.path, self._default)
            self._changed.notify_all()
        return script if isinstance(script, Answer) else script(request)

    def close(self) -> None:
        """End every connection, and join every thread."""
        self.closing.set()
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join(DEADLINE)

    def __repr__(self) -> str:
        return f"<ModelServer {self.url} [{len(self.requests())} requests]>"


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that they are joined
    request_queue_size = 512

    def __init__(self, model: ModelServer) -> None:
        self.model = model
        # Guards connections.
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, on a thread that has a name."""
        threading.current_thread().name = f"pyworker-testing-model-{self.server_port}"
        super().process_request_thread(request, client_address)

    def end_connections(self) -> None:
        with self.lock:
            still_open = list(self.connections)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _own(self) -> _Server:
        return cast("_Server", self.server)

    def setup(self) -> None:
        super().setup()
        with self._own.lock:
            self._own.connections.add(self.connection)

    def finish(self) -> None:
        with self._own.lock:
            self._own.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the base class
        """Nothing: a test looks at what came."""

    def respond(self) -> None:
        """Answer one request, of any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ModelRequest(self.command, parts.path, parts.query, headers, body)
        answer = self._own.model.take(request)
        try:
            self._play(answer)
        except OSError:
            request.gone.set()
            self.close_connection = True

    def _play(self, answer: Answer) -> None:
        if answer.begin is not None:
            self._hold(answer.begin)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        is_chunked = answer.length is None
        self.send_header(
            *(("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(answer.length)))
        )
        self.end_headers()
        if self.command == "HEAD":
            return
        for step in answer.steps:
            if isinstance(step, threading.Event):
                self._hold(step)
            elif step:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step) if is_chunked else step)
        if answer.is_cut:
            self.close_connection = True
        elif is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _hold(self, gate: threading.Event) -> None:
        """Wait for the gate. Raises `ConnectionAbortedError` if the worker hangs up meanwhile."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        while not gate.wait(_LOOK):
            if self._own.model.closing.is_set() or poll.poll(0):
                raise ConnectionAbortedError

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = respond  # noqa: N815

"""A model server whose responses a test writes byte by byte and releases step by step."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from typing_extensions import Self

from tests.support.waiting import DEADLINE

_LOOK = 0.02  # seconds between two looks whether the peer of a held response is still there


class Act(Enum):
    """What a script does besides sending bytes and waiting for events."""

    CLOSE = "close the connection in the ordinary way"
    RESET = "reset the connection"
    HANG = "say nothing more until the peer hangs up"


@dataclass(frozen=True)
class Tell:
    """Sets an event: the script has come so far."""

    event: threading.Event


@dataclass(frozen=True)
class Deaf:
    """Waits for an event, and does not notice meanwhile that the peer hung up."""

    event: threading.Event


#: Bytes are sent, an event is waited for, an act is done. The connection is kept after the last step.
Step = bytes | threading.Event | Tell | Deaf | Act


@dataclass
class Received:
    """One request as it arrived. `gone` is set, and `gone_at` (monotonic), once its peer hung up early."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    gone: threading.Event = field(default_factory=threading.Event)
    gone_at: float = 0.0

    def header(self, name: str) -> str | None:
        """The first header of this name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class _PeerGone(Exception):
    """The other side hung up."""


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A response with Content-Length."""
    return head(*headers, f"Content-Length: {len(body)}", status=status) + body


def head(*headers: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """The header block of a response."""
    return "\r\n".join([f"{version} {status}", *headers]).encode("latin-1") + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the last one where `data` is empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class ScriptedServer:
    """Answers each path by its script. Any thread may call any method.

    A path without a script gets `default`. `once` scripts come first, in the order in which they were given.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        listening: bool = True,
        host: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
    ) -> None:
        """context: for TLS; host: the address to listen at."""
        self._context = context
        # Guards everything below it but the threads; notified at each request and each end of a connection.
        self._changed = threading.Condition()
        self._scripts: dict[str, tuple[Step, ...]] = {}
        self._once: defaultdict[str, deque[tuple[Step, ...]]] = defaultdict(deque)
        self._early: dict[str, tuple[Step, ...]] = {}
        self._requests: list[Received] = []
        self._open: dict[socket.socket, threading.Thread] = {}
        self._accepted = 0
        self._closing = threading.Event()
        self._bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._bound.bind((host, port))
        self.port = int(self._bound.getsockname()[1])
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.default: tuple[Step, ...] = (whole(b'{"ok": true}', "Content-Type: application/json"),)
        self._acceptor = threading.Thread(target=self._accept, name=f"scripted-{self.port}", daemon=True)
        if listening:
            self.listen()

    def listen(self) -> None:
        """Begin to accept; until then a connection is refused."""
        self._bound.listen(512)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- orders ------------------------------------------------------------------------------------------

    def script(self, path: str, *steps: Step) -> None:
        """Every request of `path` gets these steps from now on."""
        with self._changed:
            self._scripts[path] = steps

    def once(self, path: str, *steps: Step) -> None:
        """One request of `path` gets these steps."""
        with self._changed:
            self._once[path].append(steps)

    def early(self, path: str, *steps: Step) -> None:
        """Every request of `path` gets these steps from now on, as soon as its header block is here.

        Its body is not read unless the script comes to its end, and then in vain.
        """
        with self._changed:
            self._early[path] = steps

    def forget(self) -> None:
        """Back to the default responses; earlier requests are forgotten."""
        with self._changed:
            self._early.clear()
            self._scripts.clear()
            self._once.clear()
            self._requests.clear()

    def forget_requests(self) -> None:
        """As if none had come; the scripts stay."""
        with self._changed:
            self._requests.clear()

    # -- what came ---------------------------------------------------------------------------------------

    def requests(self, path: str | None = None) -> list[Received]:
        """What arrived, oldest first."""
        with self._changed:
            return [request for request in self._requests if path in (None, request.path)]

    def request(self, path: str, number: int = 1) -> Received:
        """The so-manieth request of `path`, after waiting for it."""
        self.wait_for(lambda: len(self.requests(path)) >= number, f"request {number} of {path}")
        return self.requests(path)[number - 1]

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._accepted

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        with self._changed:
            return len(self._open)

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
        """Until `condition()` holds, looked at after each change; AssertionError where it never does."""
        with self._changed:
            # A reentrant lock is behind the condition, so it may call any method here.
            assert self._changed.wait_for(condition, timeout), f"not within {timeout:g} s: {what}"

    def close(self) -> None:
        """End every connection and join every thread."""
        self._closing.set()
        _shut(self._bound)
        if self._acceptor.ident is not None:
            self._acceptor.join(DEADLINE)
        self._bound.close()
        with self._changed:
            still_open = dict(self._open)
        for connection in still_open:
            _shut(connection)
        for thread in still_open.values():
            thread.join(DEADLINE)

    # -- threads -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._bound.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._accepted += 1
                number = self._accepted
                thread = threading.Thread(
                    target=self._serve,
                    args=(connection, number),
                    name=f"scripted-{self.port}-{number}",
                    daemon=True,
                )
                self._open[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            connection = self._over_tls(connection)
        with connection, connection.makefile("rb") as file, contextlib.suppress(OSError, _PeerGone):
            while (request := self._read_request(connection, file, number)) is not None:
                with self._changed:
                    self._requests.append(request)
                    waiting = self._once.get(request.path)
                    steps = waiting.popleft() if waiting else self._scripts.get(request.path, self.default)
                    self._changed.notify_all()
                try:
                    self._play(connection, steps)
                except (OSError, _PeerGone):
                    request.gone_at = time.monotonic()
                    request.gone.set()
                    raise
        with self._changed:
            del self._open[connection]
            self._changed.notify_all()

    def _over_tls(self, connection: socket.socket) -> socket.socket:
        if self._context is None:
            return connection
        over_tls = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._open[over_tls] = self._open.pop(connection)
        return over_tls

    def _read_request(self, connection: socket.socket, file: Any, number: int) -> Received | None:
        request = _read_head(file, number)
        if request is None:
            return None
        with self._changed:
            steps = self._early.get(request.path)
            if steps is not None:
                self._requests.append(request)
                self._changed.notify_all()
        if steps is not None:
            self._play(connection, steps)
        length = int(request.header("Content-Length") or 0)
        request.body = file.read(length)
        return None if steps is not None or len(request.body) != length else request

    def _play(self, connection: socket.socket, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, threading.Event):
                self._hold(connection, step)
            elif isinstance(step, Tell):
                step.event.set()
            elif isinstance(step, Deaf):
                while not step.event.wait(_LOOK) and not self._closing.is_set():
                    pass
            elif step is Act.HANG:
                self._hold(connection, threading.Event())
            else:
                if step is Act.RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    _shut(connection)
                raise ConnectionAbortedError

    def _hold(self, connection: socket.socket, gate: threading.Event) -> None:
        while not gate.wait(_LOOK):
            if self._closing.is_set() or _is_gone(connection):
                raise _PeerGone

    def __repr__(self) -> str:
        return f"<ScriptedServer {self.url} [{self.open_connections} open, {len(self.requests())} requests]>"


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _is_gone(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _read_head(file: Any, number: int) -> Received | None:
    start = file.readline()
    if start.count(b" ") < 2:
        return None  # the end, or nothing of HTTP
    method, path, _ = start.decode("latin-1").split(" ", 2)
    headers: list[tuple[str, str]] = []
    while line := file.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    return Received(method, path, headers, b"", number)

"""The websockets of clients: each gets the events of its prompts, and every change of the queue."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, TextMessage
from wsproto.utilities import ProtocolError

Headers = list[tuple[str, str]]


class Mode(Enum):
    """How the server treats websockets."""

    NORMAL = "as ComfyUI"
    REFUSED = "the handshake is refused with 503"
    UNANSWERED = "the handshake is never answered"
    SILENT = "open, and nothing is ever sent"


class ClientSocket:
    """One websocket. Any thread may send."""

    def __init__(self, connection: socket.socket, target: str, headers: Headers) -> None:
        self._connection = connection
        # Guards _protocol and the order of what is sent.
        self._lock = threading.Lock()
        self._protocol = WSConnection(ConnectionType.SERVER)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        self._protocol.initiate_upgrade_connection(raw, target)
        next(iter(self._protocol.events()))

    def accept(self) -> None:
        """Answer the handshake."""
        with self._lock:
            self._connection.sendall(self._protocol.send(AcceptConnection()))

    def send(self, event: str, data: Mapping[str, object]) -> None:
        """One event, as JSON text."""
        with self._lock, contextlib.suppress(OSError, ProtocolError):
            message = TextMessage(data=json.dumps({"type": event, "data": data}))
            self._connection.sendall(self._protocol.send(message))

    def send_raw(self, data: bytes) -> None:
        """Bytes that a test has made itself."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(data)

    def ping(self) -> None:
        with self._lock, contextlib.suppress(OSError, ProtocolError):
            self._connection.sendall(self._protocol.send(Ping(payload=b"are you there")))

    def read(self) -> Iterator[str]:
        """The names of the events that come, until the client is gone."""
        with contextlib.suppress(OSError, ProtocolError):
            while True:
                data = self._connection.recv(65536)
                with self._lock:
                    self._protocol.receive_data(data or None)
                    events = list(self._protocol.events())
                for event in events:
                    yield type(event).__name__
                    if isinstance(event, CloseConnection):
                        return

    def drop(self) -> None:
        """End the connection without a word."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class ClientSockets:
    """Those that are open, by client id. Thread-safe.

    before: called with the name of each event that goes to one client, before it is sent.
    """

    def __init__(self) -> None:
        self.mode = Mode.NORMAL
        self.before: Callable[[str, ClientSocket], None] = lambda _event, _socket: None
        #: Names of what clients sent, and how many handshakes there were.
        self.received: list[str] = []
        self.opened = 0
        # Guards _open.
        self._lock = threading.Lock()
        self._open: dict[str, ClientSocket] = {}

    @property
    def open(self) -> list[ClientSocket]:
        with self._lock:
            return list(self._open.values())

    def serve(
        self, connection: socket.socket, target: str, headers: Headers, sid: str, remaining: int
    ) -> None:
        """One connection, until it ends."""
        client = ClientSocket(connection, target, headers)
        with self._lock:
            # No event may come between the two.
            client.accept()
            self.opened += 1
            self._open[sid] = client
        try:
            if self.mode is Mode.NORMAL:
                status = {"status": {"exec_info": {"queue_remaining": remaining}}, "sid": sid}
                client.send("status", status)
            for name in client.read():
                self.received.append(name)
        finally:
            with self._lock:
                if self._open.get(sid) is client:
                    del self._open[sid]

    def send(self, event: str, data: Mapping[str, object], sid: str | None) -> None:
        """To this client (None: to all)."""
        if self.mode is not Mode.NORMAL:
            return
        with self._lock:
            clients = [client for name, client in self._open.items() if sid in (None, name)]
        for client in clients:
            if sid is not None:
                self.before(event, client)
            client.send(event, data)

"""ComfyUI's websocket: the events of one client id, in bounded memory and time.

The protocol is wsproto's, which does no I/O: so a frame of any claimed length is taken piece by piece, and
every wait has one deadline, however slowly bytes drip in.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pydantic_core
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from pyworker.jobs import Job
from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.origin import Origin
from workers.comfyui.workflows import as_object

#: Seconds to connect, and as many for the handshake.
OPEN_SECONDS = 3.0
# Bytes. A library that takes frames off the front of a buffer copies the rest for each.
_READ = 16 * 1024
# Bytes of one event; a longer one is skipped.
_MAX_EVENT = 2**20
_SEND_SECONDS = 5.0


class SocketLost(Exception):
    """The websocket could not be opened, or has ended."""


class EventSocket:
    """An open websocket. Belongs to one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Mapping[str, Any]] = deque()
        # Of the message that is arriving; None while one is skipped.
        self._text: list[str] | None = []
        self._length = 0
        self._is_open = False

    def open(self, host: str, target: str, api_key: str, seconds: float) -> None:
        """The handshake. Raises `SocketLost`.

        No Origin is sent: ComfyUI refuses one that is not its own.
        """
        authorization = [(b"Authorization", f"Bearer {api_key}".encode("latin-1"))] if api_key else []
        self._send(Request(host=host, target=target, extra_headers=authorization))
        deadline = time.monotonic() + seconds
        while not self._is_open:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SocketLost(f"no handshake in {seconds:g} s")
            self._receive(left)

    def next(self, seconds: float) -> Mapping[str, Any] | None:
        """The next event within `seconds`, as `{"type": …, "data": {…}}`; None if none came.

        Binary messages (previews of images), messages that are no JSON object, and those longer than a
        megabyte are skipped. Raises `SocketLost`.
        """
        deadline = time.monotonic() + seconds
        while not self._events:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._receive(left)
        return self._events.popleft()

    def close(self) -> None:
        """End the connection at once, so that nothing is sent to it in vain."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _receive(self, seconds: float) -> None:
        """Take what arrives within `seconds`, of at most `_READ` bytes."""
        try:
            self._connection.settimeout(seconds)
            with waiting:
                data = self._connection.recv(_READ)
        except TimeoutError:
            return
        except OSError as error:
            raise SocketLost(f"connection failed ({error.strerror or type(error).__name__})") from error
        if not data:
            raise SocketLost("connection closed")
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._take(event)
        except ProtocolError as error:
            raise SocketLost(f"not a websocket's protocol ({type(error).__name__})") from error

    def _take(self, event: Event) -> None:
        if isinstance(event, TextMessage):
            self._add(event)
        elif isinstance(event, AcceptConnection):
            self._is_open = True
        elif isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, RejectConnection):
            raise SocketLost(f"handshake refused with status {event.status_code}")
        elif isinstance(event, CloseConnection):
            raise SocketLost(f"closed with code {int(event.code)}")

    def _add(self, piece: TextMessage) -> None:
        self._length += len(piece.data)
        if self._length > _MAX_EVENT:
            self._text = None
        elif self._text is not None and piece.data:
            self._text.append(piece.data)
        if piece.message_finished:
            text, self._text, self._length = self._text, [], 0
            with contextlib.suppress(ValueError):
                message = as_object(pydantic_core.from_json("".join(text or ())))
                if message:
                    self._events.append(message)

    def _send(self, event: Event) -> None:
        try:
            data = self._protocol.send(event)
            self._connection.settimeout(_SEND_SECONDS)
            with waiting:
                self._connection.sendall(data)
        except (OSError, ProtocolError) as error:
            raise SocketLost(f"connection failed ({type(error).__name__})") from error

    def __repr__(self) -> str:
        return f"<EventSocket {'open' if self._is_open else 'opening'} [{len(self._events)} events]>"


@contextmanager
def event_socket(origin: Origin, path: str, api_key: str, job: Job) -> Generator[EventSocket]:
    """An open websocket, which ends with the block or with the job. Raises `SocketLost`, `Aborted`."""
    try:
        connection = origin.connect(lambda _: None, OPEN_SECONDS)
    except OSError as error:
        raise SocketLost(f"no connection ({error.strerror or type(error).__name__})") from error
    with connection, job.holding(connection):
        events = EventSocket(connection)
        events.open(origin.host, path, api_key, OPEN_SECONDS)
        yield events

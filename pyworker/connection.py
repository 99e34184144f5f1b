"""One connection to the model server, and a call on it that any thread may abort."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import select
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_BUFFER = 64 * 1024
# Above this, joining head and body costs more than the second system call.
_JOIN_BELOW = 64 * 1024
_CONNECT_TIMEOUT = 10.0
_MAX_INTERIM_ANSWERS = 16
# Within what an integer of 64 bits can hold; ASCII digits, which `\d` is not.
_LENGTH = re.compile("[0-9]{1,18}")


class Aborted(Exception):
    """The call was ended by `ModelCall.abort`."""


class StaleConnection(Exception):
    """A reused connection broke before it returned a byte: nothing was executed on it."""


class ModelCall:
    """One call to the model server, which any thread may abort. Thread-safe."""

    def __init__(self) -> None:
        # Guards _socket and _aborted.
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    @property
    def aborted(self) -> bool:
        return self._aborted

    def attach(self, connection: socket.socket | None) -> None:
        """From now on the call runs on this socket (None: on none). Raises `Aborted` where it is too late."""
        with self._lock:
            self._socket = connection
            if self._aborted and connection is not None:
                raise Aborted

    def abort(self) -> None:
        """End the call: a thread blocked on its socket wakes with an error at once."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                # Under the lock, so that the socket cannot go back to the pool in between; never blocks.
                _shutdown(self._socket)


def _shutdown(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already gone, which is what was wanted
        connection.shutdown(socket.SHUT_RDWR)


class _SocketReader(io.RawIOBase):
    """The receiving side of a socket that counts what came."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.received = 0
        self.finished = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.finished:
            return 0
        count = self._connection.recv_into(buffer)
        self.received += count
        return count


class ResponseFile(io.BufferedReader):
    """What `http.client` reads one response from; tells at its close whether bytes were left over."""

    def __init__(self, reader: _SocketReader) -> None:
        super().__init__(reader, _READ_BUFFER)
        self._reader = reader
        self.in_head = True
        self.leftover = False

    def readline(self, size: int | None = -1, /) -> bytes:
        """As any file's, but a head that breaks off is an error: `http.client` would take it for whole."""
        line = super().readline(size)
        if self.in_head and not line.endswith(b"\n") and self._reader.received and len(line) != size:
            raise http.client.HTTPException("the model server broke off in the head of its answer")
        return line

    def close(self) -> None:
        if not self.closed:
            self._reader.finished = True
            self.leftover = bool(self.peek(1))
        super().close()


class Connection:
    """A TCP connection to the model server. Used by one thread at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=_CONNECT_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reused = False

    def exchange(
        self, method: str, head: bytes, body: bytes, timeout: float | None
    ) -> tuple[http.client.HTTPResponse, ResponseFile]:
        """Send a request and read the head of its answer; raises OSError or `http.client.HTTPException`."""
        self.socket.settimeout(timeout)
        reader = _SocketReader(self.socket)
        file = ResponseFile(reader)
        try:
            self._send(head, body)
            return _read_head(file, method), file
        except (ConnectionError, http.client.RemoteDisconnected) as error:
            if self.reused and reader.received == 0:
                raise StaleConnection from error
            raise

    def _send(self, head: bytes, body: bytes) -> None:
        if len(body) <= _JOIN_BELOW:
            self.socket.sendall(head + body)
        else:
            self.socket.sendall(head)
            self.socket.sendall(body)

    @property
    def is_idle(self) -> bool:
        """Open, and silent as a connection between two requests should be."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self.socket.close()


def _read_head(file: ResponseFile, method: str) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast("socket.socket", _FileSource(file)), method=method)
    try:
        _begin(response)
    except BaseException:
        # Left to the garbage collector, response and file may be closed in the wrong order.
        response.close()
        raise
    file.in_head = False
    return response


def _begin(response: http.client.HTTPResponse) -> None:
    """Read heads until a final one."""
    for _ in range(_MAX_INTERIM_ANSWERS):
        response.begin()
        if response.status >= 200:
            _check_framing(response)
            return
        if response.status == http.client.SWITCHING_PROTOCOLS:
            break
        # http.client skips 100 by itself; 102 and 103 announce an answer just as well.
        cast("Any", response).headers = None
    raise http.client.HTTPException("the model server does not come to a final answer")


def _check_framing(response: http.client.HTTPResponse) -> None:
    """Refuse what `http.client` would take for an answer that ends with its connection."""
    lengths = set(response.headers.get_all("Content-Length", []))
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        raise http.client.HTTPException("the model server's answer has no sensible Content-Length")
    coding = response.headers.get("Transfer-Encoding", "chunked")
    if coding.lower() != "chunked":
        raise http.client.HTTPException("the model server's answer has a transfer coding that is not known")


class _FileSource:
    """Stands where `http.client` expects a socket: it only ever asks for a file."""

    def __init__(self, file: ResponseFile) -> None:
        self._file = file

    def makefile(self, _mode: str) -> ResponseFile:
        return self._file

"""requests, with one deadline for a whole HTTP call.

The timeouts of requests restart at each read, so that a server which drips one byte at a time, in its header
block or in a TLS record, is never timed out. Here the socket timeout is set to the remaining time before each
wait. Only the lookup of the host name is left to the system's resolver.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Seconds left of a deadline that has passed: the next wait times out, with the library's own error.
_PASSED = 0.001


@dataclass(frozen=True)
class TimeLimit:
    """The deadline of a call, in monotonic seconds.

    silence: None if the deadline includes the response's body. Otherwise the body of a 2xx response may take
    any time, with at most this many seconds between two reads.
    """

    end: float
    silence: float | None = None

    def left(self) -> float:
        """Seconds for the next wait."""
        return max(_PASSED, self.end - time.monotonic())


#: The limit of this thread's call. Passed from the adapter, through urllib3, to the connection.
_current: ContextVar[TimeLimit] = ContextVar("_current")


class TimedAdapter(HTTPAdapter):
    """An adapter of requests. Any thread may call `exchange` and `send`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedTlsPool}

    def exchange(
        self,
        request: requests.PreparedRequest,
        limit: TimeLimit,
        *,
        connect: float,
        **options: Any,
    ) -> requests.Response:
        """Send a request and read the response's header block. connect: seconds to connect.
        options: as for `send`, such as verify.
        """
        token = _current.set(limit)
        left = limit.left()
        try:
            return super().send(request, stream=True, timeout=(min(connect, left), left), **options)
        finally:
            _current.reset(token)

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """As a session calls it. timeout: seconds to connect, and for the whole call with the body; or one
        number for both.
        """
        timeout: float | tuple[float, float] = options.pop("timeout")
        connect, whole = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        options.pop("stream", None)
        return self.exchange(request, TimeLimit(time.monotonic() + whole), connect=connect, **options)


def timed_session() -> requests.Session:
    """A session that ignores the environment and .netrc.

    Every call needs `timeout=(seconds to connect, seconds for the whole call)`.
    """
    session = requests.Session()
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, TimedAdapter())
    return session


class _Timed(HTTPConnection):
    """Sets the socket timeout to the remaining time before each wait."""

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        made.settimeout(_current.get().left())  # for the handshake of TLS
        return made

    def send(self, data: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(_current.get().left())
        super().send(data)

    def getresponse(self) -> Any:
        limit = _current.get()
        self.timeout = limit.left()
        self.response_class = cast("Any", functools.partial(_TimedResponse, limit=limit))
        return super().getresponse()


class _TimedTls(_Timed, HTTPSConnection):
    """The same over TLS."""


class _TimedPool(HTTPConnectionPool):
    ConnectionCls: Any = _Timed


class _TimedTlsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _TimedTls


class _TimedResponse(http.client.HTTPResponse):
    """Reads its header block, and its body if the limit includes that, before the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, limit: TimeLimit, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._limit = limit
        self._source = _TimedSource(sock, self.fp.detach(), limit)
        self.fp = io.BufferedReader(self._source)

    def begin(self) -> None:
        super().begin()
        if self._limit.silence is not None and 200 <= self.status < 300:
            self._source.allow(self._limit.silence)


class _TimedSource(io.RawIOBase):
    """Reads a socket until a deadline."""

    def __init__(self, sock: socket.socket, source: io.RawIOBase, limit: TimeLimit) -> None:
        super().__init__()
        self._sock = sock
        self._source = source
        self._limit: TimeLimit | None = limit

    def allow(self, silence: float) -> None:
        """From now on, limit only the seconds between two reads."""
        self._limit = None
        self._sock.settimeout(silence)

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._limit is not None:
            self._sock.settimeout(self._limit.left())
        return self._source.readinto(buffer)  # type: ignore[attr-defined]

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._source.close()
        super().close()

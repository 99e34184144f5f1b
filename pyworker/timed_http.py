"""HTTP of the requests library in which a whole exchange has a deadline.

The timeouts of requests are for one wait each: connecting, and every read. A server that drips one byte at a
time, in its header block or in a TLS record, begins them anew for ever. Here the time that is left is given
to the socket before each wait. Only the look-up of a host's name is left to the system's resolver.
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

#: What is left of a deadline that has passed: the next wait ends at once, with the library's own error.
_AT_ONCE = 0.001


@dataclass(frozen=True)
class TimeLimit:
    """When an exchange has to be over, in monotonic seconds.

    silence: None if that includes the body of the response; else how many seconds the body of a good one
    (2xx) may be silent, however long it takes.
    """

    end: float
    silence: float | None = None

    def left(self) -> float:
        """Seconds for the next wait."""
        return max(_AT_ONCE, self.end - time.monotonic())


#: Of the exchange that this thread is about to make: from the adapter, through urllib3, to the connection.
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
        verify: bool | str = True,
    ) -> requests.Response:
        """Send a request; the body of the response is still to be read. `connect`: seconds to connect in."""
        token = _current.set(limit)
        left = limit.left()
        try:
            return super().send(request, stream=True, timeout=(min(connect, left), left), verify=verify)
        finally:
            _current.reset(token)

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As a session calls it. `timeout` is for connecting, and for all of the exchange with its body."""
        connect, whole = kwargs["timeout"]
        token = _current.set(TimeLimit(time.monotonic() + whole))
        try:
            return super().send(*args, **{**kwargs, "timeout": (min(connect, whole), whole)})
        finally:
            _current.reset(token)


def timed_session() -> requests.Session:
    """A session whose every call needs `timeout=(seconds to connect, seconds for the whole exchange)`.

    It asks neither the environment nor .netrc.
    """
    session = requests.Session()
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, TimedAdapter())
    return session


class _Timed(HTTPConnection):
    """Gives the socket what is left before it waits."""

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
    """Reads its header block, and its body if that is part of the limit, within the time of the exchange."""

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
    """The bytes of a socket, until a deadline."""

    def __init__(self, sock: socket.socket, source: io.RawIOBase, limit: TimeLimit) -> None:
        super().__init__()
        self._sock = sock
        self._source = source
        self._limit: TimeLimit | None = limit

    def allow(self, silence: float) -> None:
        """From now on only silence counts."""
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

"""Where the model server listens, and how a connection to it is made: TCP, with TLS on it for `https://`."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from pyworker.errors import ConfigError
from pyworker.redaction import redacted
from pyworker.thread_pool import waiting

#: Seconds for a connection, all its addresses and the TLS handshake included.
CONNECT_SECONDS = 10.0
DEFAULT_PORTS = {"http": 80, "https": 443}


class ConnectTimeout(TimeoutError):
    """The model server did not take the connection in time."""


class Origin:
    """An `http://` or `https://` origin. Thread-safe.

    ca_file: the certificates that may sign the model server's; default: those that come with requests.
    Raises `ConfigError` for a URL that no connection can be made to.
    """

    def __init__(self, base_url: str, ca_file: Path | None = None) -> None:
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"the URL of the model server is not valid: {error}") from None
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ConfigError(
                "the URL of the model server must begin with http:// or https:// and name a host: "
                f"{redacted(base_url)}"
            )
        self.hostname = parts.hostname
        self.port = port or DEFAULT_PORTS[parts.scheme]
        #: As it stands in a Host header.
        self.host = parts.netloc.rpartition("@")[2]
        self.ca_file = ca_file
        self._tls = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=str(ca_file or DEFAULT_CA_BUNDLE_PATH))

    @property
    def is_tls(self) -> bool:
        return self._tls is not None

    def connect(
        self, attach: Callable[[socket.socket], None], seconds: float = CONNECT_SECONDS
    ) -> socket.socket:
        """A connection to the first of its addresses that takes one, within so many seconds.

        attach: called with the socket before each wait on it, so that others can end that wait; what it
        raises goes on. Raises OSError.
        """
        deadline = time.monotonic() + seconds
        with waiting:
            connection = self._connect(attach, deadline)
            if self._tls is None:
                return connection
            try:
                # Only wrapped: a handshake here would be one that `attach` does not know of.
                connection = self._tls.wrap_socket(
                    connection, server_hostname=self.hostname, do_handshake_on_connect=False
                )
                attach(connection)
                with _connecting(connection, deadline):
                    connection.do_handshake()
            except BaseException:
                connection.close()
                raise
        return connection

    def _connect(self, attach: Callable[[socket.socket], None], deadline: float) -> socket.socket:
        problem: OSError = OSError(f"{self.hostname} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.hostname, self.port, type=socket.SOCK_STREAM
        ):
            connection = socket.socket(family, kind, protocol)
            try:
                attach(connection)
                with _connecting(connection, deadline):
                    connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connection.close()
                problem = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise problem

    def __repr__(self) -> str:
        return f"<Origin {self.host}{' over TLS' if self.is_tls else ''}>"


@contextlib.contextmanager
def _connecting(connection: socket.socket, deadline: float) -> Generator[None, None, None]:
    """What is done within ends by the deadline (monotonic), or raises `ConnectTimeout`."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise ConnectTimeout("no connection in time")
    connection.settimeout(left)
    try:
        yield
    except TimeoutError as error:
        raise ConnectTimeout("no connection in time") from error

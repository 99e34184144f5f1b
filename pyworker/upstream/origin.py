"""The model server's origin: connections to it, over TLS for `https://`, and redirects that name it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from pyworker.errors import ConfigError, shortened
from pyworker.runtime.redaction import redacted
from pyworker.runtime.thread_pool import waiting

#: Seconds for a connection: all addresses and the TLS handshake together.
CONNECT_SECONDS = 10.0
# Characters of a redirect's target.
_SHOWN = 200
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ConnectTimeout(TimeoutError):
    """The model server did not accept the connection in time."""


class Origin:
    """An `http://` or `https://` origin. Thread-safe.

    ca_file: trusted certificate authorities; by default those that requests trusts. Raises `ConfigError` for
    a URL that names no such origin.
    """

    def __init__(self, base_url: str, ca_file: Path | None = None) -> None:
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"the URL of the model server is not valid: {error}") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ConfigError(
                "the URL of the model server must begin with http:// or https:// and name a host: "
                f"{redacted(base_url)}"
            )
        self.hostname = parts.hostname
        self.port = port or _DEFAULT_PORTS[parts.scheme]
        #: The value of the Host header.
        self.host = parts.netloc.rpartition("@")[2]
        self.ca_file = ca_file
        self.is_tls = parts.scheme == "https"
        trusted = str(ca_file or DEFAULT_CA_BUNDLE_PATH)
        self._tls = ssl.create_default_context(cafile=trusted) if self.is_tls else None

    def connect(
        self, attach: Callable[[socket.socket], None], seconds: float = CONNECT_SECONDS
    ) -> socket.socket:
        """Connect to the first address that accepts, within `seconds` in all.

        attach: called with the socket before each wait on it, so that another thread can end the wait; its
        exceptions are passed on. Raises OSError.
        """
        deadline = time.monotonic() + seconds
        with waiting:
            connection = self._connect(attach, deadline)
            if self._tls is None:
                return connection
            try:
                # The handshake comes after `attach`, so that it can be aborted.
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
                return connection
            except BaseException as error:
                connection.close()
                if not isinstance(error, OSError):
                    raise
                problem = error
        raise problem

    def inner_target(self, locations: Iterable[str]) -> str:
        """The first of these redirect targets that leads into the instance, without its query; empty if none.

        That is a loopback address or this origin itself. A location without a host is a path of the worker to
        a client, and not inner.
        """
        for location in locations:
            try:
                parts = urlsplit(location.strip())
                host, port = parts.hostname or "", parts.port
            except ValueError:  # an invalid address in brackets, or an invalid port
                continue
            is_own = host == self.hostname and (port or _DEFAULT_PORTS.get(parts.scheme)) == self.port
            if is_own or _is_loopback(host):
                target = f"{parts.scheme or 'http'}://{parts.netloc.rpartition('@')[2]}{parts.path}"
                return shortened(target, _SHOWN)
        return ""

    def __repr__(self) -> str:
        return f"<Origin {self.host}{' over TLS' if self.is_tls else ''}>"


@contextlib.contextmanager
def _connecting(connection: socket.socket, deadline: float) -> Generator[None, None, None]:
    """Set the socket's timeout to end at the deadline (monotonic), and raise `ConnectTimeout` then."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise ConnectTimeout("no connection in time")
    connection.settimeout(left)
    try:
        yield
    except TimeoutError as error:
        raise ConnectTimeout("no connection in time") from error


def _is_loopback(host: str) -> bool:
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        # inet_aton also takes the short forms that resolvers accept, such as 127.1.
        address = ipaddress.ip_address(name if ":" in name else socket.inet_aton(name))
    except (OSError, ValueError):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified

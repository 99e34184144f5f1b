"""Redirects of the model server that lead into the instance, where no client can follow. Pure."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from pyworker.errors import shortened
from pyworker.origin import DEFAULT_PORTS, Origin

_SHOWN = 200


def inner_target(locations: Iterable[str], origin: Origin) -> str:
    """Where one of these leads to within the instance, without its query; empty if none does.

    origin: the model server's own, which need not be a loopback address. A location without a host is not one
    of these: a client takes it for a path of the worker.
    """
    for location in locations:
        try:
            parts = urlsplit(location.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError:  # brackets without an address, or a port that is none
            continue
        is_own = host == origin.hostname and (port or DEFAULT_PORTS.get(parts.scheme)) == origin.port
        if is_own or _is_loopback(host):
            return shortened(
                f"{parts.scheme or 'http'}://{parts.netloc.rpartition('@')[2]}{parts.path}", _SHOWN
            )
    return ""


def _is_loopback(host: str) -> bool:
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:
            # The shorter forms that every resolver takes, such as 127.1.
            address = ipaddress.IPv4Address(socket.inet_aton(name))
        except (OSError, ValueError):
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified

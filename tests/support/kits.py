"""A kit that several tests share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pyworker.testing import Kit
from tests.support.leaks import share_port, unshare_port


@contextmanager
def lasting(kit: Kit) -> Generator[None]:
    """Connections to its model server, and to its autoscaler, are no leak of a test."""
    servers = {"pyworker-testing-model": kit.model.url, "pyworker-autoscaler": kit.autoscaler.url}
    ports = {int(urlsplit(url).port or 0): name for name, url in servers.items()}
    for port, name in ports.items():
        share_port(port, name)
    try:
        yield
    finally:
        for port in ports:
            unshare_port(port)

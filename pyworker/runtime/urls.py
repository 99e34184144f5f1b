"""What a URL names."""

from __future__ import annotations

from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of a URL; None if it is not an HTTP or HTTPS URL with a host."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname.rstrip("."), _DEFAULT_PORTS[parts.scheme] if port is None else port


def can_be_called(url: str) -> bool:
    """Whether it is an HTTP or HTTPS URL with a host, and a port that can be connected to."""
    found = origin(url)
    return found is not None and found[2] != 0

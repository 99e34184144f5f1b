"""Which header fields of the model server's response are passed on to the client."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: RFC 9110 section 7.6.1, and what older servers still send.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# The worker's own server writes these.
_WRITTEN_BY_SERVER = frozenset({"server", "date", "content-length"})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE_ENDS = re.compile(r"[\r\n]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def end_to_end_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers to pass on: without those of a single connection, and without malformed ones."""
    unfolded = [(name, _unfolded(value)) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in unfolded
        if name.lower() == "connection"
        for token in value.split(",")
    }
    dropped = HOP_BY_HOP | _WRITTEN_BY_SERVER | named
    return [
        (name, value)
        for name, value in unfolded
        if name.lower() not in dropped and _NAME.fullmatch(name) and not _CONTROL.search(value)
    ]


def _unfolded(value: str) -> str:
    """The value on one line."""
    if "\r" not in value and "\n" not in value:
        return value
    return " ".join(line for part in _LINE_ENDS.split(value) if (line := part.strip()))

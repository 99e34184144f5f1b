"""Parses the header block of a response: bytes in, a `ResponseHead` out. Pure.

Much faster than `http.client`. What that refuses is refused here too, and so is a header block that leaves
the length of the body in doubt.
"""

from __future__ import annotations

import functools
import http.client
import re
from collections.abc import Sequence
from typing import NamedTuple

from pyworker.runtime.limits import MAX_HEADER_BLOCK

MAX_FIELDS = 100
# Longer header blocks are not cached.
_MAX_CACHED = 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (.*))?", re.DOTALL)
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):(.*)", re.DOTALL)
# Fits into 64 bits; only ASCII digits, unlike `\d` on text.
_LENGTH = re.compile("[0-9]{1,18}")


class Fields(tuple[tuple[str, str], ...]):
    """Header fields in order, with the method of a message that cookie jars call."""

    __slots__ = ()

    def get_all(self, name: str, default: list[str]) -> list[str]:
        """Every value of a field; `default` if there is none."""
        wanted = name.lower()
        return [value for name, value in self if name.lower() == wanted] or default

    def tokens(self, name: str) -> list[str]:
        """The members of a comma-separated field, in lower case."""
        values = self.get_all(name, [])
        return [token.strip(" \t") for value in values for token in value.lower().split(",")]


class ResponseHead(NamedTuple):
    """A parsed header block and what it says about the body. Immutable.

    framing_fault: why the body of a final response with this header block cannot be read; empty if it can.
    """

    version: int
    status: int
    reason: str
    fields: Fields
    will_close: bool
    is_chunked: bool
    length: int | None
    framing_fault: str


def parse_head(raw: bytes) -> ResponseHead:
    """Parse the bytes before the empty line. Raises `http.client.HTTPException` if they are malformed."""
    return _parse_head(raw) if len(raw) > _MAX_CACHED else _cached_head(raw)


def _parse_head(raw: bytes) -> ResponseHead:
    first, *lines = raw.split(b"\n")
    status_line = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
    if status_line is None or len(raw) > MAX_HEADER_BLOCK or len(lines) > MAX_FIELDS:
        raise http.client.HTTPException("it has no proper header block")
    minor, status, reason = status_line.groups(b"")
    version = 10 + int(minor)
    fields = Fields(_parse_fields(lines))
    fault = ""
    lengths = set(fields.tokens("Content-Length"))  # equal values may be repeated
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        fault = "it has no sensible Content-Length"
    codings = fields.tokens("Transfer-Encoding")
    if codings not in ([], ["chunked"]):
        fault = "it has a transfer coding that is not known"
    connection = fields.tokens("Connection")
    return ResponseHead(
        version,
        int(status),
        reason.decode("latin-1").strip(),
        fields,
        will_close="close" in connection or (version == 10 and "keep-alive" not in connection),
        is_chunked=bool(codings),
        length=int(lengths.pop()) if lengths and not fault else None,
        framing_fault=fault,
    )


# Similar requests get the same header block, at least within the same second of its Date.
_cached_head = functools.lru_cache(maxsize=128)(_parse_head)


def _parse_fields(lines: Sequence[bytes]) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in lines:
        text = line.rstrip(b"\r")
        if text[:1] in (b" ", b"\t") and fields:  # a folded value, as older servers send
            name, value = fields.pop()
            fields.append((name, f"{value} {text.strip().decode('latin-1')}"))
            continue
        found = _FIELD.fullmatch(text)
        if found is None:
            raise http.client.HTTPException("it has a header field that is none")
        fields.append((found[1].decode("ascii"), found[2].lstrip(b" \t").decode("latin-1")))
    return fields

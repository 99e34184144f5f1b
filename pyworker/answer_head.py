"""The head of the model server's answer: bytes in, a `Head` out. Pure.

`http.client` would do, at a fifth of the time that a small request costs. What it refuses is refused here,
and also a head that leaves the length of the body in doubt.
"""

from __future__ import annotations

import functools
import http.client
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

MAX_HEAD = 64 * 1024
MAX_FIELDS = 100
# A longer head is parsed each time.
_MAX_REMEMBERED = 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (.*))?", re.DOTALL)
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):(.*)", re.DOTALL)
# Within what an integer of 64 bits can hold; ASCII digits, which `\d` of a text is not.
_LENGTH = re.compile("[0-9]{1,18}")


class Fields:
    """Header fields in order of arrival, with what urllib3 and cookie jars ask of a message. Immutable."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields

    def items(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def get_all(self, name: str, default: T) -> list[str] | T:
        """Every value of a field, `default` where there is none."""
        wanted = name.lower()
        return [value for name, value in self._fields if name.lower() == wanted] or default

    def tokens(self, name: str) -> list[str]:
        """The lower-case members of a field that is a list."""
        values = self.get_all(name, [])
        return [token.strip().lower() for value in values for token in value.split(",")] if values else []

    def __repr__(self) -> str:
        return f"<Fields [{len(self._fields)}]>"


class Head(NamedTuple):
    """The head of an answer, and what it says of the body. Immutable.

    framing_fault: why an answer with this head cannot be read, where it is a final one.
    """

    version: int
    status: int
    reason: str
    msg: Fields
    will_close: bool
    is_chunked: bool
    length: int | None
    framing_fault: str


def parse_head(raw: bytes) -> Head:
    """Of the bytes before the empty line. Raises `http.client.HTTPException` for what is no head."""
    return _parse_head(raw) if len(raw) > _MAX_REMEMBERED else _remembered_head(raw)


def _parse_head(raw: bytes) -> Head:
    first, *lines = raw.split(b"\n")
    status_line = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
    if status_line is None or len(raw) > MAX_HEAD or len(lines) > MAX_FIELDS:
        raise http.client.HTTPException("it has no proper header block")
    minor, status, reason = status_line.groups(b"")
    version = 10 + int(minor)
    msg = Fields(_fields(lines))
    fault = ""
    lengths = set(_lengths(msg))
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        fault = "it has no sensible Content-Length"
    codings = msg.tokens("Transfer-Encoding")
    if codings not in ([], ["chunked"]):
        fault = "it has a transfer coding that is not known"
    connection = msg.tokens("Connection")
    return Head(
        version,
        int(status),
        reason.decode("latin-1").strip(),
        msg,
        will_close="close" in connection or (version == 10 and "keep-alive" not in connection),
        is_chunked=bool(codings),
        length=int(lengths.pop()) if lengths and not fault else None,
        framing_fault=fault,
    )


# A model server that is asked the same again and again gives the same head, at least within one second.
_remembered_head = functools.lru_cache(maxsize=128)(_parse_head)


def _lengths(msg: Fields) -> list[str]:
    """Every Content-Length: one that is given twice, in one field or two, may be the same."""
    values = msg.get_all("Content-Length", [])
    return [length.strip(" \t") for value in values for length in value.split(",")]


def _fields(lines: Sequence[bytes]) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in lines:
        text = line.rstrip(b"\r")
        if text[:1] in (b" ", b"\t") and fields:  # older servers fold long values
            name, value = fields.pop()
            fields.append((name, f"{value} {text.strip().decode('latin-1')}"))
            continue
        found = _FIELD.fullmatch(text)
        if found is None:
            raise http.client.HTTPException("it has a header field that is none")
        fields.append((found[1].decode("ascii"), found[2].lstrip(b" \t").decode("latin-1")))
    return fields

"""Heads that clients send again and again: judged once by gunicorn's parser, then known by their bytes.

The client of an API sends the same head with each request, but for the length of its body. Where every other
byte is the same, so is what the parser makes of it. So nothing here decides; it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Longer heads are parsed each time; and where so many are known, the next one begins the list anew.
MAX_KNOWN_HEAD = 4096
MAX_KNOWN_HEADS = 64
_MAX_DIGITS = 15


@dataclass(frozen=True)
class KnownHead:
    """A head around the digits of its Content-Length, and what the parser made of it. Immutable.

    environ: what every request with this head has in its WSGI environ, whoever sent it.
    """

    before: bytes
    after: bytes
    method: str
    version: tuple[int, int]
    closes: bool
    environ: Mapping[str, Any]

    def body_in(self, received: bytes) -> bytes | None:
        """The body, where this is one whole request with this head and nothing behind it."""
        start, after = len(self.before), self.after
        if not received.startswith(self.before):
            return None
        end = received.find(after, start, start + _MAX_DIGITS + len(after))
        digits = received[start:end]
        if end < 0 or not digits.isdigit() or int(digits) != len(received) - end - len(after):
            return None
        return received[end + len(after) :]

    # As a request of which everything is here, for the response.

    def should_close(self) -> bool:
        """Whether its client wants the connection to end with the answer."""
        return self.closes

    @property
    def goes_on(self) -> bool:
        """Whether the rest of the request is still on its way."""
        return False

    def finish(self) -> bytes:
        """What came behind the request."""
        return b""


class KnownHeads:
    """The heads that one process knows. Thread-safe: two threads may learn one twice, and nothing more."""

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}

    def find(self, before: bytes, after: bytes) -> KnownHead | None:
        """The head of these bytes, where it is known."""
        return self._heads.get((before, after))

    def learn(self, head: KnownHead) -> None:
        """Know this one from now on, unless it is too long."""
        if len(head.before) + len(head.after) > MAX_KNOWN_HEAD:
            return
        if len(self._heads) >= MAX_KNOWN_HEADS:
            self._heads.clear()
        self._heads[head.before, head.after] = head

    def __repr__(self) -> str:
        return f"<KnownHeads [{len(self._heads)}]>"

"""What may be put between a response's body and its reader."""

from __future__ import annotations

from typing import Protocol


class Tap(Protocol):
    """What sees each piece of a body when it arrives, and may change what is read of it. Never raises."""

    def feed(self, piece: bytes) -> bytes:
        """What is read of this piece; may be empty."""
        ...

    def finish(self) -> bytes:
        """What is left to be read once the body is complete; empty if called again."""
        ...

"""A limit for something that many share, such as memory."""

from __future__ import annotations

import threading


class Budget:
    """A number of units. Thread-safe, never blocks."""

    def __init__(self, size: int) -> None:
        # Guards _left.
        self._lock = threading.Lock()
        self._left = size

    def take(self, count: int = 1) -> bool:
        """Take `count` units; False, and none taken, if fewer are left."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int = 1) -> None:
        """Return units that were taken."""
        with self._lock:
            self._left += count

    def __repr__(self) -> str:
        return f"<Budget [{self._left} left]>"

"""A bound for something that many hold a part of, such as memory."""

from __future__ import annotations

import threading


class Budget:
    """So many units in all. Thread-safe, never blocks."""

    def __init__(self, size: int) -> None:
        # Guards _left.
        self._lock = threading.Lock()
        self._left = size

    def take(self, count: int = 1) -> bool:
        """Take so many units; False, and nothing taken, if fewer are left."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int = 1) -> None:
        """Units that were taken."""
        with self._lock:
            self._left += count

    def __repr__(self) -> str:
        return f"<Budget [{self._left} left]>"

"""Faults that a test orders from a local server: an error status, or a response that is held back."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hold:
    """A response that is held back: `arrived` is set once a request waits, `release` lets it go on."""

    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


class Faults:
    """Orders for the next requests of each path. Any thread may call any method."""

    def __init__(self) -> None:
        # Guards both tables. An entry of `_orders` is used up by one request, in the order given.
        self._lock = threading.Lock()
        self._orders: defaultdict[str, deque[int | Hold]] = defaultdict(deque)
        self._holds: list[Hold] = []

    def fail_with(self, status: int, path: str, times: int = 1) -> None:
        """The next `times` requests of `path` get `status` and change nothing."""
        with self._lock:
            self._orders[path].extend([status] * times)

    def hang(self, path: str) -> Hold:
        """The next request of `path` is held until the returned hold is released."""
        hold = Hold()
        with self._lock:
            self._orders[path].append(hold)
            self._holds.append(hold)
        return hold

    def clear(self) -> None:
        """Forget all orders and release whatever is held."""
        with self._lock:
            holds, self._holds = self._holds, []
            self._orders.clear()
        for hold in holds:
            hold.release()

    def apply(self, path: str) -> int | None:
        """Carry out the next order for `path`: wait, or return the status to respond with."""
        with self._lock:
            orders = self._orders.get(path)
            order = orders.popleft() if orders else None
        if not isinstance(order, Hold):
            return order
        order.arrived.set()
        order.released.wait()
        with self._lock:
            if order in self._holds:
                self._holds.remove(order)
        return None

    def __repr__(self) -> str:
        with self._lock:
            return f"<Faults [{sum(map(len, self._orders.values()))} ordered, {len(self._holds)} holds]>"

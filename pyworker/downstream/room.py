"""Limits for the number of connections, and for the memory of requests that have not arrived completely."""

from __future__ import annotations

from collections.abc import Callable, Sized

from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.ranking import Ranking
from pyworker.runtime.budget import Budget

#: Bytes of requests that have not arrived completely or wait for a thread, of all connections together. Up to
#: `_FREE_BYTES` of each are not counted, so that a small request costs no accounting.
INCOMING_BYTES = 32 * 2**20
_FREE_BYTES = 4096


class Room:
    """If there is no room, the connection that has sent the least for the longest is closed.

    Belongs to the event loop's thread, but for `charge_alone` and `release`, which whichever thread owns the
    connection may call.
    """

    def __init__(
        self, max_connections: int, connections: Sized, close: Callable[[ClientSocket], None]
    ) -> None:
        self._max_connections = max_connections
        self._connections = connections
        self._close = close
        self._memory = Budget(INCOMING_BYTES)
        self._ranking = Ranking()
        # Connections that were charged for memory.
        self._holding = Ranking(_is_charged)
        self._evicted = 0

    def has_room(self) -> bool:
        """Whether one more can be connected, perhaps in place of another."""
        return len(self._connections) < self._max_connections or self._ranking.lowest() is not None

    def make_room(self) -> None:
        """One more will be connected: close another if need be."""
        if len(self._connections) >= self._max_connections and (lowest := self._ranking.lowest()) is not None:
            self._evict(lowest)

    def add(self, client: ClientSocket) -> None:
        """It is connected."""
        self._ranking.add(client)

    def remove(self, client: ClientSocket) -> None:
        """It is closed."""
        self._ranking.remove(client)
        self._holding.remove(client)
        self.release(client)

    def charge(self, client: ClientSocket) -> bool:
        """Count what this connection holds of a request. If there is no room, others that were charged are
        closed; False if that does not suffice.
        """
        missing = client.framing.size - client.charged
        if client.framing.size <= _FREE_BYTES or missing <= 0:
            return True
        while not self._memory.take(missing):
            lowest = self._holding.lowest()
            if lowest is None or lowest is client:
                return False
            self._evict(lowest)
        client.charged += missing
        self.list(client)
        return True

    def charge_alone(self, client: ClientSocket) -> bool:
        """As `charge` for one that was released, but no other is closed for it. To be listed later."""
        size = client.framing.size
        if size <= _FREE_BYTES:
            return True
        if not self._memory.take(size):
            return False
        client.charged = size
        return True

    def list(self, client: ClientSocket) -> None:
        """It may be closed to make room in memory, if it was charged."""
        if client.charged and not client.is_listed:
            client.is_listed = True
            self._holding.add(client)

    def release(self, client: ClientSocket) -> None:
        """Its request has a thread now, or is gone: count it no more."""
        charged, client.charged = client.charged, 0
        if charged:
            self._memory.give_back(charged)

    def take_evicted(self) -> int:
        """How many were closed to make room since the last call."""
        evicted, self._evicted = self._evicted, 0
        return evicted

    def _evict(self, client: ClientSocket) -> None:
        self._evicted += 1
        self._close(client)

    def __repr__(self) -> str:
        return f"<Room {self._memory!r} {self._ranking!r}>"


def _is_charged(client: ClientSocket) -> bool:
    client.is_listed = client.charged > 0
    return client.is_listed

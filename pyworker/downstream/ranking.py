"""Which connection is closed to make room: the one that has sent the least for the longest."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

from pyworker.downstream.connection import ClientSocket, Stage

# Entries of closed connections are dropped once there are this many times as many entries as connections.
_SLACK = 4
_FEW = 64
# Seconds for which a connection that is in use is not looked at again. More than the bytes of an unfinished
# request can count for, so that it ranks behind all that are not in use.
_IN_USE = 2.5


class Ranking:
    """A heap of connections by their `ClientSocket.rank`. Belongs to the event loop's thread.

    A rank only grows, and an entry is corrected when it comes to the top. So a change of rank (bytes arrive,
    a request ends) costs nothing, and `lowest` takes logarithmic time for each entry that it corrects, each
    of which has changed since it was last looked at.
    """

    def __init__(self, keep: Callable[[ClientSocket], bool] = lambda _: True) -> None:
        """keep: called with connections at the top; one for which it returns False is removed."""
        self._keep = keep
        self._clients: dict[int, ClientSocket] = {}
        # Ranks, and the keys of connections: a stale entry keeps no closed connection alive.
        self._entries: list[tuple[float, int]] = []
        self._compact_at = _SLACK * _FEW

    def add(self, client: ClientSocket) -> None:
        """Rank this one. Amortized logarithmic time."""
        key = id(client)
        self._clients[key] = client
        heapq.heappush(self._entries, (client.since, key))  # at most its rank, and corrected if need be
        if len(self._entries) >= self._compact_at:
            self._entries = [(client.rank, key) for key, client in self._clients.items()]
            heapq.heapify(self._entries)
            self._compact_at = _SLACK * max(len(self._entries), _FEW)

    def remove(self, client: ClientSocket) -> None:
        """Rank it no more."""
        self._clients.pop(id(client), None)

    def lowest(self) -> ClientSocket | None:
        """The connection to close first; None if all are in use. It stays until it is removed."""
        entries = self._entries
        # Each is corrected at most once: one that is in use now is not the lowest a moment later either.
        for _ in range(len(entries) + 1):
            if not entries:
                break
            listed, key = entries[0]
            client = self._clients.get(key)
            if client is None or not self._keep(client):
                self._clients.pop(key, None)
                heapq.heappop(entries)
                continue
            in_use = client.stage is Stage.WORKING
            rank = time.monotonic() + _IN_USE if in_use else client.rank
            if not in_use and rank <= listed:
                return client
            heapq.heapreplace(entries, (rank, key))
        return None

    def __repr__(self) -> str:
        return f"<Ranking [{len(self._clients)} connections]>"

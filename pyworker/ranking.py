"""Which connection is closed if there is no room for all: the one that has sent the least for the longest."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

from pyworker.client_socket import ClientSocket, Stage

# Entries of closed connections are dropped once there are this many times as many entries as others.
_SLACK = 4
# Seconds for which a connection that is in use is not looked at again. More than the bytes of a request that
# has not arrived completely are worth, so that it comes behind all that are not in use.
_IN_USE = 5.0


class Ranking:
    """A heap of connections by their `ClientSocket.rank`. Belongs to the poller's thread.

    A rank grows, and an entry is corrected when it comes to the top. So what changes a rank (a byte that
    arrives, a request that ends) costs nothing, and `lowest` takes logarithmic time for each entry that it
    corrects, each of which has changed since it was looked at last.
    """

    def __init__(self, keep: Callable[[ClientSocket], bool] = lambda _: True) -> None:
        """keep: asked for connections that come to the top; one that it refuses leaves until it is added
        again.
        """
        self._keep = keep
        self._entries: list[tuple[float, int, ClientSocket]] = []
        # Decides between equal ranks, so that connections are never compared.
        self._numbers = itertools.count()
        self._compact_at = _SLACK * 64

    def add(self, client: ClientSocket) -> None:
        """From now on it may be the lowest. Amortized logarithmic time."""
        heapq.heappush(self._entries, (client.rank, next(self._numbers), client))
        if len(self._entries) >= self._compact_at:
            self._entries = [entry for entry in self._entries if self._stays(entry[2])]
            heapq.heapify(self._entries)
            self._compact_at = _SLACK * max(len(self._entries), 64)

    def lowest(self) -> ClientSocket | None:
        """The connection to close first; None if all are in use. It stays in the ranking until it is
        closed.
        """
        entries = self._entries
        # Each is corrected once at most: one that is in use now is not the lowest a moment later either.
        for _ in range(len(entries) + 1):
            if not entries:
                break
            listed, number, client = entries[0]
            if not self._stays(client):
                heapq.heappop(entries)
                continue
            in_use = client.stage is Stage.WORKING
            rank = time.monotonic() + _IN_USE if in_use else client.rank
            if not in_use and rank <= listed:
                return client
            heapq.heapreplace(entries, (rank, number, client))
        return None

    def _stays(self, client: ClientSocket) -> bool:
        return client.stage is not Stage.CLOSED and self._keep(client)

    def __repr__(self) -> str:
        return f"<Ranking [{len(self._entries)} entries]>"

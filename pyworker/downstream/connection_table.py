"""The connections of one process: registered with epoll, limited in number, and closed without a mix-up.

A descriptor's number is given out anew as soon as it is closed. So connections are closed only at the end of
a batch of events, none of which can then be taken for an event of the number's next connection; and no thread
re-arms a number that is another connection's by then.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections import Counter

from pyworker.downstream.connection import ClientSocket, Stage
from pyworker.downstream.framing import Framing
from pyworker.downstream.room import Room

#: Bytes and seconds for what a client still sends after the end.
_LINGER_BYTES = 2**20
_LINGER_SECONDS = 2.0
#: What epoll watches: a connection that is read or in the pool; one that a thread reads from; one that is
#: waited for to read its response.
TO_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
HANG_UP = select.EPOLLRDHUP | select.EPOLLET
TO_WRITE = select.EPOLLOUT | select.EPOLLET

# Of a connection that is not read any more: what it has sent is given up.
_NOTHING = Framing(0)


class ConnectionTable:
    """Belongs to the event loop's thread, but for `arm` and `linger`, which whichever thread owns the
    connection may call. So the number of connections is that of the table, and cannot drift.
    """

    def __init__(self, epoll: select.epoll, max_connections: int) -> None:
        self._epoll = epoll
        #: Descriptor -> connection.
        self.clients: dict[int, ClientSocket] = {}
        self.room = Room(max_connections, self.clients, self.close)
        # Held while a descriptor is re-armed, and taken once before descriptors are closed.
        self._descriptor_lock = threading.Lock()
        self._closing: list[ClientSocket] = []

    def add(self, client: ClientSocket) -> None:
        """It is connected. `Room.make_room` was called before."""
        self.clients[client.descriptor] = client
        self.room.add(client)

    def arm(self, client: ClientSocket, events: int) -> None:
        """Re-arm epoll for these events; it fires at once if data is already buffered. On the thread that
        owns the connection, or has just given it back.
        """
        client.readable_while_busy = False
        # epoll_ctl does not block. It raises if the system watches no more descriptors; the connection is
        # then closed at its deadline.
        with self._descriptor_lock, contextlib.suppress(OSError, ValueError):
            if client.stage is Stage.CLOSED:
                return
            if client.armed_for:
                client.armed_for = events
                self._epoll.modify(client.descriptor, events)
            else:
                client.armed_for = events
                self._epoll.register(client.descriptor, events)

    def linger(self, client: ClientSocket) -> None:
        """End the response, and receive what the client still sends: closing at once would reset the
        connection, and with it the response that the client is reading.
        """
        client.framing = _NOTHING
        self.room.release(client)
        if client.is_cut:
            client.enter(Stage.LINGERING, 0.0)  # the next sweep closes it
            return
        client.end_output()
        client.may_still_send = _LINGER_BYTES
        client.enter(Stage.LINGERING, _LINGER_SECONDS)
        if client.may_be_readable or client.armed_for != TO_READ:
            self.arm(client, TO_READ)

    def close(self, client: ClientSocket) -> None:
        """Close it, as soon as the batch of events is done."""
        if client.stage is not Stage.CLOSED:
            client.enter(Stage.CLOSED)
            client.framing = _NOTHING
            self.clients.pop(client.descriptor, None)
            self.room.remove(client)
            self._closing.append(client)

    def close_descriptors(self) -> None:
        """The batch of events is done: these numbers may be given out anew."""
        if self._closing:
            closing, self._closing = self._closing, []
            # A thread that holds this saw one of them open, and is done once we had it; one that comes later
            # sees it closed.
            with self._descriptor_lock:
                pass
            for client in closing:
                client.close()

    def stages(self) -> Counter[Stage]:
        """How many connections are in each. On any thread."""
        return Counter(client.stage for client in list(self.clients.values()))

    def __repr__(self) -> str:
        stages = self.stages()
        counts = ", ".join(f"{stages[stage]} {stage.value}" for stage in Stage if stages[stage])
        return f"[{sum(stages.values())} connected{f': {counts}' if counts else ''}]"

"""The event loop of all clients' connections that no thread of the pool works for.

epoll is edge-triggered and also reports on connections in the pool: a client that hangs up is reported to its
request; that more has arrived is noted in `ClientSocket.readable_while_busy`. So a client that sends one
request after the other costs no `epoll_ctl`; in every other case `ConnectionTable.arm` re-arms epoll.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from pyworker.downstream.acceptor import Acceptor, Listener
from pyworker.downstream.connection import ClientSocket, Stage
from pyworker.downstream.connection_table import ConnectionTable
from pyworker.downstream.framing import Framing
from pyworker.downstream.request_reader import HEAD_SECONDS, RequestReader
from pyworker.wsgi_extensions import Presence

logger = logging.getLogger(__name__)

#: Seconds that a drain leaves to clients that are sending a request.
DRAIN_SECONDS = 5.0
# Events that are handled before connections with more to read, and before descriptors are closed.
_EVENTS_PER_BATCH = 256
_IS_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class EventLoop:
    """The connections of one process. Only `give_back`, `release`, `connections` and `repr` may be called
    from other threads.
    """

    def __init__(
        self,
        submit: Callable[[ClientSocket], None],
        notify_gone: Callable[[Presence], None],
        nudge_stalled: Callable[[], float],
        *,
        max_connections: int,
        max_large: int,
        max_body: int,
        keepalive: float,
    ) -> None:
        """submit, max_large, max_body, keepalive: as for `RequestReader`.

        notify_gone: the client of a request in the pool has hung up.
        nudge_stalled: have requests begun that wait for too long; returns the seconds until it is due again.
        Neither may block.
        """
        self._notify_gone = notify_gone
        self._max_body = max_body
        self._nudge_stalled = nudge_stalled
        self._epoll = select.epoll()
        self._table = ConnectionTable(self._epoll, max_connections)
        self._clients = self._table.clients
        self._room = self._table.room
        self._reader = RequestReader(
            self._table, submit, max_large=max_large, max_body=max_body, keepalive=keepalive
        )
        self._acceptor = Acceptor(self._epoll, self._room.has_room, self._welcome)
        self._wake_descriptor = -1
        #: A request is done (`RequestReader.take_back`). On the thread that worked on it.
        self.give_back = self._reader.take_back
        #: A request of this connection has its thread now, and no longer counts as unfinished. From there.
        self.release = self._room.release

    @property
    def is_drained(self) -> bool:
        """Whether no connection is left that a drain waits for."""
        return all(client.listener.outlives_drain for client in self._clients.values())

    def connections(self) -> dict[str, int]:
        """How many there are in each stage. On any thread."""
        stages = self._table.stages()
        return {stage.name.lower(): stages[stage] for stage in Stage if stage is not Stage.CLOSED}

    # -- the loop ----------------------------------------------------------------------------------------

    def wake_by(self, descriptor: int) -> None:
        """Return early from `serve` if this becomes readable."""
        self._wake_descriptor = descriptor
        self._epoll.register(descriptor, select.EPOLLIN)

    def listen(self, listeners: Iterable[Listener]) -> None:
        """Accept from these as well."""
        for listener in listeners:
            self._acceptor.listen(listener)

    def serve(self, seconds: float) -> None:
        """Handle events for this many seconds, or until woken; then check the deadlines."""
        end = time.monotonic() + seconds
        reader = self._reader
        woken = False
        while not woken and (left := end - time.monotonic()) > 0:
            timeout = 0.0 if reader.unfinished else min(left, self._nudge_stalled())
            for descriptor, events in self._epoll.poll(timeout, _EVENTS_PER_BATCH):
                if descriptor == self._wake_descriptor:
                    os.read(descriptor, 4096)
                    woken = True
                else:
                    self._dispatch(descriptor, events)
            if reader.unfinished:
                reader.read_unfinished()
            reader.submit_queued()
            self._table.close_descriptors()
        self._sweep(time.monotonic())
        self._table.close_descriptors()

    def _dispatch(self, descriptor: int, events: int) -> None:
        client = self._clients.get(descriptor)
        if client is None:
            self._acceptor.accept_from(descriptor)
            return
        if events & _IS_GONE:
            presence = client.presence
            presence.is_gone = True
            if presence.on_gone is not None:
                self._notify_gone(presence)
        if client.stage is Stage.WORKING:
            client.readable_while_busy = True
            # Looked at again: a thread that gave it back meanwhile may not have seen the mark.
            if client.stage is Stage.WORKING:
                return
        self._reader.continue_with(client)

    def _welcome(self, connection: socket.socket, address: Any, listener: Listener) -> None:
        self._room.make_room()
        try:
            client = ClientSocket(connection, address, listener, Framing(self._max_body))
            if listener.wrap_tls is not None:
                connection.setblocking(False)
                client.start_tls(listener.wrap_tls(connection))
        except OSError:
            connection.close()  # gone already
            return
        client.expire_in(HEAD_SECONDS)
        self._table.add(client)
        self._reader.continue_with(client)

    # -- deadlines and the end ---------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new connections. A request that is being sent has `DRAIN_SECONDS` to arrive."""
        until = time.monotonic() + DRAIN_SECONDS
        self._acceptor.drain(until)
        # Requests that have arrived already get their response.
        for descriptor, events in self._epoll.poll(0):
            if descriptor != self._wake_descriptor:
                self._dispatch(descriptor, events)
        for client in self._clients.values():
            if client.listener.is_draining and client.stage is not Stage.WORKING:
                client.deadline = min(client.deadline, until)
        self._sweep(time.monotonic())

    def close(self) -> None:
        """Refuse new connections, and hang up on all that are left."""
        self._acceptor.close()
        for client in list(self._clients.values()):
            client.hang_up()
        self._table.close_descriptors()
        self._epoll.close()

    def _sweep(self, now: float) -> None:
        late = 0
        for client in list(self._clients.values()):
            if client.stage is Stage.WORKING:
                continue
            if client.deadline <= now:
                late += client.stage in (Stage.HANDSHAKE, Stage.HEAD, Stage.BODY)
                self._expire(client)
            elif client.listener.is_draining and not client.has_begun:
                self._table.close(client)
            else:
                self._room.list(client)
        if late:
            logger.info("closed %d connections: request not received in time", late)
        if evicted := self._room.take_evicted():
            logger.warning("closed %d connections that had sent the least, to make room for others", evicted)
        self._acceptor.resume_if_due(now)

    def _expire(self, client: ClientSocket) -> None:
        if client.stage is Stage.QUEUED:
            self._reader.refuse(client, HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at once")
        elif client.stage in (Stage.HEAD, Stage.BODY) and client.framing.received.strip():
            self._reader.refuse(client, HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
        else:
            self._table.close(client)

    def __repr__(self) -> str:
        return f"<EventLoop {self._table!r}>"

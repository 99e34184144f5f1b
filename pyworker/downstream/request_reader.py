"""Requests as they arrive: received on the event loop's thread until a thread of the pool can work on each.

A connection leaves for the pool with a whole request, or with the header block and beginning of a large one,
and comes back by `take_back`, on the pool's thread. Every client gets a bounded share: of each event (bytes
or TLS records; then other connections come first), of time (a deadline that moves with the bytes received,
never with those announced) and of memory (`room`).
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus

from pyworker.downstream.connection import BYTES_PER_SECOND, SEND_SECONDS, ClientSocket, Stage
from pyworker.downstream.connection_table import HANG_UP, TO_READ, TO_WRITE, ConnectionTable
from pyworker.downstream.framing import Framing, Verdict
from pyworker.runtime.limits import READ_SIZE
from pyworker.runtime.nonblocking import Receiver

logger = logging.getLogger(__name__)

#: Deadline for the header block of a request.
HEAD_SECONDS = 10.0
#: Deadline for a body: 30 s, and 1 s more for each `BYTES_PER_SECOND` bytes received.
BODY_SECONDS = 30.0
#: Seconds that a large body may wait for a thread.
_QUEUE_SECONDS = 30.0
# Seconds for connections with more to read, before epoll is asked again.
_UNFINISHED_SECONDS = 0.005
# TLS records that one connection gets of one event; a plain one gets one `recv`.
_RECORDS_PER_EVENT = 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestReader:
    """Belongs to the event loop's thread, but for `take_back`. Never blocks."""

    def __init__(
        self,
        table: ConnectionTable,
        submit: Callable[[ClientSocket], None],
        *,
        max_large: int,
        max_body: int,
        keepalive: float,
    ) -> None:
        """submit: have a thread work on this connection's request; must not block.

        max_large: how many threads may be reading the rest of a large body at the same time.
        keepalive: seconds until the connection's next request.
        """
        self._table = table
        self._room = table.room
        self._submit = submit
        # Acquired here, released by the pool's threads.
        self._large_bodies = threading.Semaphore(max_large)
        self._queued: deque[ClientSocket] = deque()
        self._max_body = max_body
        self._keepalive = keepalive
        self._receiver = Receiver(READ_SIZE)
        #: Connections that got their share of an event and have more to be read, which epoll will not report.
        self.unfinished: deque[ClientSocket] = deque()

    # -- events ------------------------------------------------------------------------------------------

    def continue_with(self, client: ClientSocket) -> None:
        """An event of a connection that is not in the pool. Closes it if it is broken."""
        try:
            self._continue_with(client)
        except OSError:
            self._table.close(client)  # reset
        except Exception:
            logger.exception("a connection is closed after an error in the event loop")
            self._table.close(client)

    def _continue_with(self, client: ClientSocket) -> None:
        stage = client.stage
        if stage is Stage.IDLE or stage is Stage.HEAD or stage is Stage.BODY:
            self._read(client)
        elif stage is Stage.LINGERING:
            if client.discard():
                self._table.arm(client, TO_READ)
            else:
                self._table.close(client)
        elif stage is Stage.HANDSHAKE:
            self._shake_hands(client)
        elif stage is Stage.BLOCKED:
            self._hand_over(client, client.verdict)
        # Else it is QUEUED and hung up, which its thread will find out.

    def _shake_hands(self, client: ClientSocket) -> None:
        try:
            client.shake_hands()
        except ssl.SSLWantReadError:
            self._table.arm(client, TO_READ)
        except ssl.SSLWantWriteError:
            self._table.arm(client, TO_WRITE)
        except ssl.SSLError as error:
            logger.info("TLS handshake failed (%s)", error.reason)
            self._table.close(client)
        else:
            client.enter(Stage.HEAD, HEAD_SECONDS)
            self._read(client)

    def _read(self, client: ClientSocket) -> None:
        """Receive a share of what has arrived; raises OSError if the connection is broken."""
        framing = client.framing
        if framing.is_behind:
            self._act_upon(client, framing.feed(b""), may_have_more=True)
            return
        verdict = Verdict.MORE
        # `arm` finds out whether a plain connection has more; TLS may have read it already.
        may_have_more = client.is_tls
        for _ in range(_RECORDS_PER_EVENT if may_have_more else 1):
            data = client.receive(self._receiver)
            if data is None:
                may_have_more = False
                break
            # If so there may be more, which epoll will not report again.
            client.readable_while_busy = len(data) == READ_SIZE
            if not data and not framing.in_body:
                self._table.close(client)  # by the client, before a request was complete
                return
            verdict = framing.feed(data) if data else Verdict.DOUBT
            if verdict is not Verdict.MORE or framing.is_behind:
                break
        self._act_upon(client, verdict, may_have_more=may_have_more)

    def _act_upon(self, client: ClientSocket, verdict: Verdict, *, may_have_more: bool) -> None:
        if not self._room.charge(client):
            self.refuse(client, HTTPStatus.SERVICE_UNAVAILABLE, "too many unfinished requests at once")
        elif verdict is not Verdict.MORE:
            self._hand_over(client, verdict)
        else:
            self._wait_for_more(client)
            if (may_have_more or client.framing.is_behind) and not client.is_unfinished:
                client.is_unfinished = True
                self.unfinished.append(client)

    def _wait_for_more(self, client: ClientSocket) -> None:
        """Set the stage and its deadline. On the thread that owns the connection."""
        framing = client.framing
        if framing.in_body:
            if framing.take_expectation():
                client.send_now(_CONTINUE)
            client.enter(Stage.BODY)
            client.expire_in(BODY_SECONDS + framing.size / BYTES_PER_SECOND)
        elif framing.size:
            client.enter(Stage.HEAD, HEAD_SECONDS)
        self._table.arm(client, TO_READ)

    def read_unfinished(self) -> None:
        """Read one more share of each unfinished connection, for a few milliseconds."""
        end = time.monotonic() + _UNFINISHED_SECONDS
        while self.unfinished and time.monotonic() < end:
            client = self.unfinished.popleft()
            client.is_unfinished = False
            if client.stage in (Stage.HEAD, Stage.BODY, Stage.IDLE):
                self.continue_with(client)

    # -- to the pool -------------------------------------------------------------------------------------

    def _hand_over(self, client: ClientSocket, verdict: Verdict) -> None:
        client.verdict = verdict
        if verdict is Verdict.BEGUN:
            # Its client may stall, so the number of threads that read such a body is limited.
            client.enter(Stage.QUEUED, _QUEUE_SECONDS)
            self._table.arm(client, HANG_UP)
            self._queued.append(client)
            self.submit_queued()
        else:
            # In the pool too, epoll reports that the client hangs up, or sends more.
            if client.armed_for != TO_READ:
                self._table.arm(client, TO_READ)
            client.enter(Stage.WORKING)
            self._submit(client)

    def submit_queued(self) -> None:
        """Give large bodies, in order of arrival, the threads that no longer read one."""
        while self._queued and self._large_bodies.acquire(blocking=False):
            client = self._queued.popleft()
            if client.stage is not Stage.QUEUED:
                self._large_bodies.release()  # it was closed while it waited
                continue
            permit = ExitStack()
            permit.callback(self._large_bodies.release)
            client.body_is_read = permit.close  # releases it at the first call only
            client.enter(Stage.WORKING)
            self._submit(client)

    def refuse(self, client: ClientSocket, status: HTTPStatus, message: str) -> None:
        """Respond to a request that gets no thread, and end the connection."""
        client.send_now(error_response(status, message))
        self._table.linger(client)

    # -- back from the pool, on a thread of the pool -----------------------------------------------------

    def take_back(self, client: ClientSocket, rest: bytes | None) -> None:
        """A request is done. rest: bytes of the next one that came behind it; None ends the connection."""
        client.body_is_read()
        self._room.release(client)
        if rest is not None and client.is_tls:
            try:
                rest += client.take_pending()
            except OSError:
                rest = None
        if rest is None:
            self._table.linger(client)
        else:
            self._await_next(client, rest)

    def _await_next(self, client: ClientSocket, rest: bytes) -> None:
        head = client.head
        client.framing = Framing(self._max_body, head and head.body_in)
        if rest:
            verdict = client.framing.feed(rest)
            while client.framing.is_behind:
                verdict = client.framing.feed(b"")
            if not self._room.charge_alone(client):
                self._table.linger(client)
            elif verdict is Verdict.MORE:
                self._wait_for_more(client)
            else:
                # A client that sends without reading gets a thread only once there is room for a response.
                client.verdict = verdict
                client.enter(Stage.BLOCKED, SEND_SECONDS)
                self._table.arm(client, TO_WRITE)
        elif client.listener.is_draining:
            self._table.linger(client)
        else:
            client.enter(Stage.IDLE, self._keepalive)
            # Only after that: from here on the event loop acts upon what arrives.
            if client.may_be_readable or client.armed_for != TO_READ:
                self._table.arm(client, TO_READ)


def error_response(status: HTTPStatus, message: str) -> bytes:
    """A whole response of JSON for what never reached the app; it ends the connection."""
    body = json.dumps({"error": message}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

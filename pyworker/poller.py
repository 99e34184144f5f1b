"""Every client's connection while no thread of the pool works for it: reading, deadlines, lingering, closing.

All of it runs on one thread that never blocks. A connection leaves for the pool with a whole request (or
the head and beginning of a large one), and comes back by `give_back`, on the pool's thread. epoll tells each
change once (edge-triggered), also while a connection is in the pool: that its client hung up is passed on at
once, that it sent more is noted in `ClientSocket.stirred` for whoever gives it back. So a client that sends
one request after the other costs no `epoll_ctl` at all; in every other case `_arm` makes epoll look again.
Only the poller's thread adds and removes connections, hence their number is the length of its table and
cannot drift.

Every client gets a bounded share: of each event (so many bytes or TLS records, then the others come first),
of time (a deadline that moves with the bytes that came, never with those that were announced), of the table
(if it is full, the connection that has sent the least for the longest is closed: `ranking`) and of memory
(requests that have not arrived completely share one budget).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from pyworker.acceptor import Acceptor
from pyworker.client_socket import BYTES_PER_SECOND, READ_SIZE, SEND_SECONDS, ClientSocket, Stage
from pyworker.framing import Framing, Verdict
from pyworker.large_bodies import LINE_SECONDS, LargeBodies
from pyworker.nowait import Receiver
from pyworker.room import Room
from pyworker.wsgi_extensions import Presence

logger = logging.getLogger(__name__)

#: Seconds for a TLS handshake, and for the head of a request.
HANDSHAKE_SECONDS = 10.0
HEAD_SECONDS = 10.0
#: Deadline for a body: so many seconds, and one more for each `BYTES_PER_SECOND` bytes received.
BODY_SECONDS = 30.0
#: Seconds that a drain leaves to those who are sending a request.
DRAIN_SECONDS = 5.0
# What is done before epoll is asked again: so many events, and so long for connections that have more.
_EVENTS_AT_ONCE = 256
_UNFINISHED_SECONDS = 0.005
# What one connection gets of one event: so many TLS records. Of a plain connection one `recv`.
_RECORDS_AT_ONCE = 16
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 2**20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# What epoll tells of a connection: also in the pool; where a thread reads from it; where nobody reads yet.
_TO_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_HANG_UP = select.EPOLLRDHUP | select.EPOLLET
_TO_WRITE = select.EPOLLOUT | select.EPOLLET
_IS_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

WrapTls = Callable[[socket.socket], ssl.SSLSocket]


class Poller:
    """The connections of one process. Only `give_back` and `repr` may be called from other threads."""

    def __init__(
        self,
        submit: Callable[[ClientSocket], None],
        tell_gone: Callable[[Presence], None],
        hasten: Callable[[], float],
        *,
        wrap_tls: WrapTls | None,
        max_connections: int,
        max_large: int,
        max_body: int,
        keepalive: float,
    ) -> None:
        """submit: have a thread work on this connection's request. keepalive: seconds before the next one.
        tell_gone: a client whose request is in the pool has hung up.
        hasten: have requests begun that wait for too long; when to call it again, in seconds. None may block.

        max_large: how many threads may be reading the rest of a large body at once.
        """
        self._submit = submit
        self._tell_gone = tell_gone
        self._hasten = hasten
        self._wrap_tls = wrap_tls
        self._max_body = max_body
        self._keepalive = keepalive
        self._epoll = select.epoll()
        self._receiver = Receiver(READ_SIZE)
        # Owned by the poller's thread: descriptor -> connection, and those that got their share of an event
        # and have more.
        self._clients: dict[int, ClientSocket] = {}
        self._unfinished: deque[ClientSocket] = deque()
        self._room = Room(max_connections, lambda: len(self._clients), self._close)
        self._large = LargeBodies(max_large)
        self._acceptor = Acceptor(self._epoll, self._room.has_room, self._welcome)
        self._wake_descriptor = -1
        # Held while a descriptor is re-armed, and taken once before descriptors are closed: what is armed is
        # not somebody else's by then.
        self._descriptor_lock = threading.Lock()
        # Owned by the poller's thread: closed at the end of a batch of events, so that no descriptor of the
        # batch is another connection's before the batch is done.
        self._closing: list[ClientSocket] = []
        # Set once by the poller's thread; until then nobody's deadline is cut.
        self._drain_until: float | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    # -- the loop, on the poller's thread ----------------------------------------------------------------

    def listen(self, listeners: Iterable[Any], wake_descriptor: int) -> None:
        """Accept from these; return early from `serve` when something can be read from that descriptor."""
        self._wake_descriptor = wake_descriptor
        self._epoll.register(wake_descriptor, select.EPOLLIN)
        self._acceptor.listen(listeners)

    def serve(self, seconds: float) -> None:
        """Work for so long, or until woken; then look at the deadlines."""
        end = time.monotonic() + seconds
        woken = False
        while not woken and (left := end - time.monotonic()) > 0:
            timeout = min(left, self._hasten()) if not self._unfinished else 0.0
            for descriptor, events in self._epoll.poll(timeout, _EVENTS_AT_ONCE):
                if descriptor == self._wake_descriptor:
                    os.read(descriptor, 4096)
                    woken = True
                else:
                    self._dispatch(descriptor, events)
            if self._unfinished:
                self._go_on_with_unfinished()
            self._advance_line()
            self._close_descriptors()
        self._sweep(time.monotonic())
        self._close_descriptors()

    def _go_on_with_unfinished(self) -> None:
        """One more share for connections that have more to be read, of which epoll will not tell, and then
        those that epoll tells of come first again.
        """
        end = time.monotonic() + _UNFINISHED_SECONDS
        while self._unfinished and time.monotonic() < end:
            client = self._unfinished.popleft()
            client.is_unfinished = False
            if client.stage in (Stage.HEAD, Stage.BODY, Stage.IDLE):
                self._try_to_go_on(client)

    def _finish_later(self, client: ClientSocket) -> None:
        if not client.is_unfinished:
            client.is_unfinished = True
            self._unfinished.append(client)

    def _dispatch(self, descriptor: int, events: int) -> None:
        client = self._clients.get(descriptor)
        if client is None:
            self._acceptor.accept_from(descriptor)
            return
        if events & _IS_GONE:
            self._note_gone(client)
        if client.stage is Stage.WORKING:
            client.stirred = True
            # Looked at again: a thread that gave it back meanwhile may not have seen the mark.
            if client.stage is Stage.WORKING:
                return
        self._try_to_go_on(client)

    def _note_gone(self, client: ClientSocket) -> None:
        client.presence.is_gone = True
        if client.presence.on_gone is not None:
            self._tell_gone(client.presence)

    def _try_to_go_on(self, client: ClientSocket) -> None:
        try:
            self._go_on(client)
        except OSError:
            self._close(client)  # reset
        except Exception:
            logger.exception("a connection is closed after an error in the poller")
            self._close(client)

    def _go_on(self, client: ClientSocket) -> None:
        if client.stage is Stage.LINGERING:
            if client.discard():
                self._arm(client, _TO_READ)
            else:
                self._close(client)
        elif client.stage is Stage.IN_LINE:
            pass  # it hung up; its thread will find that out
        elif client.stage is Stage.HANDSHAKE:
            self._shake_hands(client)
        elif client.stage is Stage.UNREAD:
            self._hand_over(client, client.verdict)
        else:
            self._read(client)

    # -- newcomers ---------------------------------------------------------------------------------------

    def _welcome(self, connection: socket.socket, address: Any, own_address: Any) -> None:
        self._room.make_room()
        try:
            client = ClientSocket(connection, address, own_address, Framing(self._max_body))
            if self._wrap_tls is not None:
                connection.setblocking(False)
                client.start_tls(self._wrap_tls(connection))
        except OSError:
            connection.close()  # gone already
            return
        self._clients[client.descriptor] = client
        self._room.add(client)
        client.deadline = client.since + HEAD_SECONDS
        self._try_to_go_on(client)

    def _shake_hands(self, client: ClientSocket) -> None:
        try:
            client.shake_hands()
        except ssl.SSLWantReadError:
            self._arm(client, _TO_READ)
        except ssl.SSLWantWriteError:
            self._arm(client, _TO_WRITE)
        except ssl.SSLError as error:
            logger.info("a TLS handshake failed (%s)", error.reason)
            self._close(client)
        else:
            client.stage = Stage.HEAD
            client.deadline = time.monotonic() + HEAD_SECONDS
            self._read(client)

    # -- reading -----------------------------------------------------------------------------------------

    def _read(self, client: ClientSocket) -> None:
        """Take a share of what is here; raises OSError where the connection is broken."""
        framing = client.framing
        if framing.is_behind:
            self._act_upon(client, framing.feed(b""), may_have_more=True)
            return
        verdict = Verdict.MORE
        may_have_more = False
        for _ in range(_RECORDS_AT_ONCE if client.is_tls else 1):
            data = client.receive(self._receiver)
            may_have_more = data is not None
            if data is None:
                break
            client.stirred = len(data) == READ_SIZE  # there may be more, of which epoll will not tell again
            if not data and not framing.in_body:
                self._close(client)  # by the client, before a request of it was complete
                return
            verdict = framing.feed(data) if data else Verdict.DOUBT
            if verdict is not Verdict.MORE or framing.is_behind:
                break
        # `_arm` finds out whether a plain connection has more; TLS may have read it already.
        self._act_upon(client, verdict, may_have_more=may_have_more and client.is_tls)

    def _act_upon(self, client: ClientSocket, verdict: Verdict, *, may_have_more: bool) -> None:
        """Of a request some more has come."""
        if not self._room.charge(client):
            self._refuse(client, HTTPStatus.SERVICE_UNAVAILABLE, "too many unfinished requests at once")
        elif verdict is not Verdict.MORE:
            self._hand_over(client, verdict)
        else:
            self._wait_for_more(client)
            if may_have_more or client.framing.is_behind:
                self._finish_later(client)

    def release(self, client: ClientSocket) -> None:
        """Its request has a thread now. From that thread."""
        self._room.release(client)

    def _refuse(self, client: ClientSocket, status: HTTPStatus, message: str) -> None:
        """Answer a request that gets no thread, and end the connection."""
        client.send_now(error_answer(status, message))
        self._linger(client)

    def _hand_over(self, client: ClientSocket, verdict: Verdict) -> None:
        client.verdict = verdict
        if verdict is Verdict.BEGUN:
            # Its client may stall, so it waits until few enough threads do the same.
            self._enter(client, Stage.IN_LINE, LINE_SECONDS)
            self._arm(client, _HANG_UP)
            self._large.add(client)
            self._advance_line()
        else:
            # Told about from here on: that it hangs up, or sends what it should not yet.
            if client.armed_for != _TO_READ:
                self._arm(client, _TO_READ)
            client.stage = Stage.WORKING
            self._submit(client)

    def _advance_line(self) -> None:
        for client in self._large.next():
            client.stage = Stage.WORKING
            self._submit(client)

    def _wait_for_more(self, client: ClientSocket) -> None:
        """Set the stage and its deadline. On the thread that owns the connection."""
        framing = client.framing
        if framing.in_body:
            if framing.take_expectation():
                client.send_now(_CONTINUE)
            self._enter(client, Stage.BODY, BODY_SECONDS)
            client.deadline = self._cut_by_drain(
                client.since + BODY_SECONDS + framing.size / BYTES_PER_SECOND
            )
        elif framing.size:
            self._enter(client, Stage.HEAD, HEAD_SECONDS)
        self._arm(client, _TO_READ)

    def _enter(self, client: ClientSocket, stage: Stage, seconds: float) -> None:
        if client.stage is stage:
            return
        client.since = time.monotonic()
        client.deadline = self._cut_by_drain(client.since + seconds)
        # Last: from here on the poller may close it when its time is over.
        client.stage = stage

    def _cut_by_drain(self, deadline: float) -> float:
        return deadline if self._drain_until is None else min(deadline, self._drain_until)

    def _arm(self, client: ClientSocket, events: int) -> None:
        """Re-arm epoll for these events; it fires at once if there is something already. From whichever
        thread owns the connection, or has just given it back.
        """
        client.stirred = False
        # epoll_ctl does not block. An OSError: the system watches no more; the connection goes with its
        # deadline.
        with self._descriptor_lock, contextlib.suppress(OSError, ValueError):
            if client.stage is Stage.CLOSED:
                return
            if client.armed_for:
                client.armed_for = events
                self._epoll.modify(client.descriptor, events)
            else:
                client.armed_for = events
                self._epoll.register(client.descriptor, events)

    # -- coming back, on a thread of the pool -------------------------------------------------------------

    def give_back(self, client: ClientSocket, rest: bytes | None) -> None:
        """A request is done. rest: what came behind it, of the next one; None ends the connection."""
        client.body_is_read()
        self._room.release(client)
        if rest is not None:
            try:
                rest += client.leave_pool()
            except OSError:
                rest = None
        if rest is None:
            self._linger(client)
            return
        client.framing = Framing(self._max_body, client.head)
        if rest:
            verdict = client.framing.feed(rest)
            while client.framing.is_behind:
                verdict = client.framing.feed(b"")
            if not self._room.charge_alone(client):
                self._linger(client)
            elif verdict is Verdict.MORE:
                self._wait_for_more(client)
            else:
                # One that sends without reading gets a thread only once there is room for an answer.
                client.verdict = verdict
                self._enter(client, Stage.UNREAD, SEND_SECONDS)
                self._arm(client, _TO_WRITE)
        elif self._drain_until is not None:
            self._linger(client)
        else:
            self._enter(client, Stage.IDLE, self._keepalive)
            # Only after that: from here on the poller acts upon what comes.
            if client.needs_a_look or client.armed_for != _TO_READ:
                self._arm(client, _TO_READ)

    def _linger(self, client: ClientSocket) -> None:
        """Take in what the client still sends: closing at once would reset the answer that it is reading."""
        client.framing = Framing(self._max_body)
        self._room.release(client)
        if client.is_cut:
            self._enter(client, Stage.LINGERING, 0.0)  # the next sweep closes it
            return
        client.say_goodbye()
        client.may_still_send = _LINGER_BYTES
        self._enter(client, Stage.LINGERING, _LINGER_SECONDS)
        self._arm(client, _TO_READ)

    # -- deadlines and ends, on the poller's thread --------------------------------------------------------

    def drain(self) -> None:
        """Refuse new clients; what is being sent has a short time to arrive, and nobody stays for more."""
        self._acceptor.close()
        # What is here already is a request to be answered.
        for descriptor, events in self._epoll.poll(0):
            if descriptor != self._wake_descriptor:
                self._dispatch(descriptor, events)
        self._drain_until = time.monotonic() + DRAIN_SECONDS
        for client in self._clients.values():
            if client.stage is not Stage.WORKING:
                client.deadline = min(client.deadline, self._drain_until)
        self._sweep(time.monotonic())

    def close(self) -> None:
        """Hang up on everybody who is left."""
        for client in list(self._clients.values()):
            client.hang_up()
        self._close_descriptors()
        self._epoll.close()

    def _sweep(self, now: float) -> None:
        late = 0
        for client in list(self._clients.values()):
            if client.stage is Stage.WORKING:
                continue
            if client.deadline <= now:
                late += client.stage in (Stage.HANDSHAKE, Stage.HEAD, Stage.BODY)
                self._expire(client)
            elif self._drain_until is not None and _is_quiet(client):
                self._close(client)
            else:
                self._room.list(client)
        if late:
            logger.info("closed %d connections: request not received in time", late)
        if evicted := self._room.take_evicted():
            logger.warning("closed %d connections that had sent the least, to make room for others", evicted)
        self._acceptor.resume_if_due(now)

    def _expire(self, client: ClientSocket) -> None:
        if client.stage is Stage.IN_LINE:
            self._refuse(client, HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at once")
        elif client.stage in (Stage.HEAD, Stage.BODY) and client.framing.received.strip():
            self._refuse(client, HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
        else:
            self._close(client)

    def _close(self, client: ClientSocket) -> None:
        if self._clients.get(client.descriptor) is client:
            del self._clients[client.descriptor]
        if client.stage is not Stage.CLOSED:
            client.stage = Stage.CLOSED
            client.framing = Framing(self._max_body)
            self._room.remove(client)
            self._closing.append(client)

    def _close_descriptors(self) -> None:
        """The batch of events is done: from here on the numbers of these connections may be given out
        anew.
        """
        if self._closing:
            closing, self._closing = self._closing, []
            # Who holds this saw one of them open, and is done once we had it; who comes later sees it closed.
            with self._descriptor_lock:
                pass
            for client in closing:
                client.close()

    def __repr__(self) -> str:
        stages = Counter(client.stage for client in list(self._clients.values()))
        counts = ", ".join(f"{stages[stage]} {stage.value}" for stage in Stage if stages[stage])
        return f"<Poller [{self.connections} connected{f': {counts}' if counts else ''}]>"


def _is_quiet(client: ClientSocket) -> bool:
    """Whether nothing of a request has come, and nothing of an answer is on its way."""
    silent = client.stage is Stage.HEAD and not client.framing.size
    return client.stage is Stage.IDLE or silent


def error_answer(status: HTTPStatus, message: str) -> bytes:
    """A whole answer of JSON for what never reached the app; it ends the connection."""
    body = json.dumps({"error": message}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

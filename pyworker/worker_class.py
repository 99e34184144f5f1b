"""gunicorn's threaded worker, hardened: no client can hold up the others, and a drain is honest.

Main thread: accepts, polls idle and lingering connections, hands the others to the pool. Pool threads: one
request each. gunicorn is pinned to a range of releases, since what is overridden here is its inside.
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import socket
import ssl
import struct
import time
from concurrent.futures import Future
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from pyworker.app import worker_of
from pyworker.read_deadlines import HEAD_SECONDS
from pyworker.worker import Worker

if TYPE_CHECKING:
    import flask

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 2**20
_READ_SIZE = 64 * 1024
_ACCEPT_PAUSE = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# struct timeval: a client that takes nothing for 60 s is given up.
_SEND_TIMEOUT = struct.pack("ll", 60, 0)

_STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


class HardenedThreadWorker(ThreadWorker):
    """A ThreadWorker with five changes.

    * A connection that ends lingers in the poller, not on the main thread, until its client hangs up.
    * Head and TLS handshake have a deadline; a client that does not read its answer is given up.
    * Without a free descriptor it pauses accepting instead of ending.
    * At SIGTERM readiness is off before it waits for the requests in hand, and new clients are refused.
    * What cannot be parsed is answered with JSON, like every other error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Owned by the main thread: socket -> (deadline, bytes that may still come).
        self._lingering: dict[socket.socket, tuple[float, int]] = {}
        self._accept_again_at = 0.0

    # -- accepting and draining, on the main thread --------------------------------------------------------

    def accept(self, listener: Any) -> None:
        """Take in a new client, or leave it in the backlog while there is no descriptor for it."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self.log.error("no new clients for %g s: %s", _ACCEPT_PAUSE, error.strerror)
            self._accept_again_at = time.monotonic() + _ACCEPT_PAUSE
            self.set_accept_enabled(False)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """Called in each round of the main loop, and with False when the drain begins."""
        if enabled and time.monotonic() < self._accept_again_at:
            return
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            # A new client is refused then, instead of left waiting on a socket nobody accepts from.
            for listener in self.sockets:
                listener.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM. Runs between two bytecodes of the main thread, which holds none of the app's locks."""
        self._worker().drain()
        super().handle_exit(sig, frame)

    def _worker(self) -> Worker:
        return worker_of(cast("flask.Flask", self.app.wsgi()))

    # -- reading and writing, on pool threads ------------------------------------------------------------

    def handle(self, conn: Any) -> Any:
        """One turn of a connection: its head has a deadline from here on."""
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        deadlines = self._worker().deadlines
        # The socket is asked for late: a TLS handshake puts another one in its place.
        deadlines.watch(conn, lambda: conn.sock, HEAD_SECONDS)
        try:
            return super().handle(conn)
        finally:
            deadlines.forget(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The head is here; the body's deadline is the app's."""
        self._worker().deadlines.forget(conn)
        return super().handle_request(req, conn)

    # -- closing, on the main thread ---------------------------------------------------------------------

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """A turn has ended; where the connection ends with it, let it linger in the poller."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
            return
        connection: socket.socket = conn.sock
        try:
            connection.shutdown(socket.SHUT_WR)
            connection.setblocking(False)
            self.poller.register(connection, selectors.EVENT_READ, self._on_lingering_readable)
        except (OSError, ValueError, KeyError):
            self._close(connection)  # the client was faster
        else:
            self._lingering[connection] = (time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES)

    def _on_lingering_readable(self, connection: socket.socket) -> None:
        """Take in what a client still sends, so that closing does not reset the answer it is reading."""
        deadline, allowed = self._lingering[connection]
        try:
            allowed -= len(connection.recv(_READ_SIZE)) or allowed
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            allowed = 0
        self._lingering[connection] = (deadline, allowed)
        if allowed <= 0:
            self._end_lingering(connection)

    def _end_lingering(self, connection: socket.socket) -> None:
        del self._lingering[connection]
        with contextlib.suppress(OSError, ValueError, KeyError):
            self.poller.unregister(connection)
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self.nr_conns -= 1
        with contextlib.suppress(OSError):
            connection.close()

    def murder_pending(self) -> None:
        """Called in each round of the main loop: also lingering comes to an end."""
        super().murder_pending()
        now = time.monotonic()
        for connection in [late for late, (deadline, _) in self._lingering.items() if deadline <= now]:
            self._end_lingering(connection)

    # -- errors before the app ---------------------------------------------------------------------------

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """What never reached the app: a head that cannot be parsed, or a fault inside gunicorn.

        The answer is JSON as everywhere else, and neither it nor the log repeats what the client sent, which
        may hold a key.
        """
        # Errors about the heads of our own answers are ParseExceptions too, but not the client's fault.
        ours = type(exc).__name__.startswith("InvalidResponse")
        if isinstance(exc, errors.ParseException) and not ours:
            status = _STATUS.get(type(exc), HTTPStatus.BAD_REQUEST)
            self.log.info("%d: a request could not be parsed (%s)", status, type(exc).__name__)
            message = f"the request cannot be parsed: {type(exc).__name__}"
        elif isinstance(exc, ssl.SSLError):
            self.log.info("a TLS handshake failed (%s)", exc.reason)
            return  # nobody on the other side speaks TLS with us
        else:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            self.log.error("a request failed inside the server", exc_info=exc)
            message = "internal error of the worker; its log says more"
        _answer(cast("socket.socket", client), status, message)


def _answer(client: socket.socket, status: HTTPStatus, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.suppress(OSError):  # the client may be gone
        client.sendall(head.encode() + body)

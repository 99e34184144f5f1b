"""gunicorn's threaded worker, hardened: no client can hold up the others, and a drain is honest.

What each thread does, and what it owns:

* The main thread runs `run`, which runs the `Poller`: it accepts, makes TLS handshakes, reads heads and small
  bodies, keeps the deadlines, lingers and closes. It never blocks and runs nothing of the app but
  `Worker.drain` and `Worker.abort_requests`. The table of connections is its own, and so is
  every `ClientSocket` that is not in the pool.
* The threads of the pool, `pyworker-request-N`, run `take_turn`: parse one request, call the app, send the
  answer, give the connection back. From `submit` to `give_back` the `ClientSocket` belongs to that one
  thread; the poller only notes in it what epoll tells meanwhile. They are made when needed, few of them run
  at once (`thread_pool`), and they do not hold up the end of the process.
* The relay, `pyworker-relay-1`, has the answers whose next piece the model server has not sent yet, with
  their `ClientSocket`, from `park` until it gives them back to the pool. It never blocks, as the poller. Over
  TLS there are four, which share them where requests wait as well.
* Signal handlers run on the main thread between two bytecodes. They only note the signal; gunicorn's wake-up
  pipe (`self.PIPE`) makes the poller return, and `run` acts.
* The disconnect watcher, `pyworker-disconnect`, is told by the poller that a client in the pool has hung up,
  and tells its request, which the poller must not wait for.

So a slow client has no thread: it gets one with its whole request, or with the first 64 KiB of a larger body,
whose rest has a deadline of its own there (`turn.Source`), and a quarter of the threads at most.

A head that a client sends again is not parsed again (`heads`): what the parser made of these bytes is used.

gunicorn is pinned to a narrow range, since what is built upon here is its inside: test_worker_class_pin.py
names each part and fails when one changes.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import socket
import time
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from gunicorn import sock as gunicorn_sock
from gunicorn.http import errors
from gunicorn.workers import base
from gunicorn.workers.gthread import ThreadWorker

from pyworker.client_socket import ClientSocket
from pyworker.delivery import Delivery
from pyworker.poller import Poller, error_answer
from pyworker.relay import Relays
from pyworker.signals import REFUSED_SIGNALS
from pyworker.thread_pool import ThreadPool
from pyworker.turn import MissingHost, Turns
from pyworker.wsgi_extensions import HELD

if TYPE_CHECKING:
    import flask

    from pyworker.worker import Worker

logger = logging.getLogger(__name__)

#: Threads that run at once: one in the interpreter, and one that comes from a system call or goes to one.
_AT_ONCE = 2
#: To send over TLS lets go of the interpreter. Where requests want it as well, one thread alone would get it
#: back too late; where they do not, several would only get in each other's way.
_TLS_RELAYS = 4
_ROUND = 1.0
_DRAIN_ROUND = 0.2
#: A stop that reaches the whole process group comes twice: from its sender and through gunicorn's master.
_SAME_STOP = 0.3
#: Seconds from the second SIGTERM until whoever is left is hung up on.
_HURRY_SECONDS = 0.7

_STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
# Never what the client sent.
_REASON: dict[type[BaseException], str] = {
    MissingHost: "a request of HTTP/1.1 needs a Host field",
    errors.LimitRequestLine: "its first line is too long",
    errors.LimitRequestHeaders: "its header fields are too many or too long",
    errors.InvalidRequestLine: "its first line is malformed",
    errors.InvalidRequestMethod: "its method is malformed",
    errors.InvalidHTTPVersion: "its HTTP version is not supported",
    errors.InvalidHeader: "a header field is malformed or must not come twice",
    errors.InvalidHeaderName: "the name of a header field is malformed",
    errors.ObsoleteFolding: "a header field goes on in a second line",
    errors.ExpectationFailed: "its Expect field asks for something other than 100-continue",
    errors.UnsupportedTransferCoding: "its Transfer-Encoding is not supported",
    errors.InvalidChunkSize: "the size of a chunk is malformed",
    errors.InvalidChunkExtension: "the extension of a chunk is malformed",
    errors.ChunkMissingTerminator: "a chunk does not end where its size says",
}


class HardenedThreadWorker(ThreadWorker):
    """One worker process. Which thread may call what is said above each group of methods."""

    # gunicorn sets these back to their default, by which SIGHUP ends the process. They stay ignored.
    SIGNALS = [number for number in ThreadWorker.SIGNALS if number not in REFUSED_SIGNALS]  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Written by the signal handler, read by the main thread.
        self._stopped_at: float | None = None
        self._is_hurried = False

    # -- main thread -------------------------------------------------------------------------------------

    def init_process(self) -> None:
        """In the new process: everything is made here, and `run` is called from here."""
        self._pool: ThreadPool[ClientSocket | Delivery] = ThreadPool(
            self.cfg.threads, self.take_turn, at_once=_AT_ONCE
        )
        relays = _TLS_RELAYS if self.cfg.is_ssl else 1
        self._relays = Relays(
            relays, self._pool.submit_first, self._pool.hasten, lambda: self._pool.is_behind
        )
        self._turns = Turns(self.cfg, lambda: not self.alive)
        # Not ThreadWorker's, which makes its own pool and poller.
        base.Worker.init_process(self)

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        self._poller = Poller(
            self._pool.submit,
            self._worker().watcher.tell,
            self._pool.hasten,
            wrap_tls=self._wrap_tls if self.cfg.is_ssl else None,
            max_connections=self.cfg.worker_connections,
            max_large=max(1, self.cfg.threads // 4),
            max_body=self._worker().settings.max_body_bytes,
            keepalive=self.cfg.keepalive,
        )
        # What is here now stays to the end. To look through it again and again for garbage would stop every
        # request for 25 ms each time.
        gc.collect()
        gc.freeze()
        self._relays.start()
        self._poller.listen(self.sockets, self.PIPE[0])
        while self.alive:
            self.notify()
            self._poller.serve(_ROUND)
            if not self.is_parent_alive():
                break
        self.alive = False
        self._drain()
        self._poller.close()
        self._relays.stop(_ROUND)
        self._pool.close()

    def _wrap_tls(self, connection: socket.socket) -> Any:
        return gunicorn_sock.ssl_wrap_socket(connection, self.cfg)

    def _drain(self) -> None:
        """Refuse new requests. Wait for those in hand, and abort them at DRAIN_TIMEOUT or a second
        SIGTERM.
        """
        worker = self._worker()
        worker.drain()
        self._poller.drain()
        now = time.monotonic()
        abort_at, end = now + worker.settings.drain_timeout, now + self.cfg.graceful_timeout
        hurries = False
        while self._poller.connections and now < end:
            if self._is_hurried and not hurries:
                hurries, end = True, now + _HURRY_SECONDS
                worker.abort_requests("second SIGTERM")
            elif now >= abort_at:
                abort_at = math.inf
                worker.abort_requests("drain timeout")
            self.notify()
            self._poller.serve(_DRAIN_ROUND)
            now = time.monotonic()

    def _worker(self) -> Worker:
        # Not above: the master loads this module too, and has no use for the memory of the app.
        from pyworker.app import worker_of

        return worker_of(cast("flask.Flask", self.app.wsgi()))

    # -- signal handlers ---------------------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """SIGTERM: drain. A second one: hurry."""
        now = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
        elif now - self._stopped_at > _SAME_STOP:
            self._is_hurried = True
        self.alive = False

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, SIGINT: end without a drain."""
        base.Worker.handle_quit(self, sig, frame)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """SIGUSR1: say in the log how things stand."""
        super().handle_usr1(sig, frame)
        logger.info("%r", self)

    # -- threads of the pool -----------------------------------------------------------------------------

    def take_turn(self, item: ClientSocket | Delivery) -> None:
        """One request of a connection, or what is left of its answer; until that is parked or given back."""
        client = item.client if isinstance(item, Delivery) else item
        parked: Delivery | None = None
        rest: bytes | None = None
        try:
            delivery = item if isinstance(item, Delivery) else self._begin(item)
            if delivery.go_on():
                rest = delivery.rest()
            else:
                parked = delivery
        except errors.ParseException as error:
            self.handle_error(None, client, client.address, error)
        except (TimeoutError, BlockingIOError):  # the latter from SO_SNDTIMEO
            logger.info("gave up on a client that did not take its answer")
        except OSError as error:
            logger.debug("a connection broke: %s", type(error).__name__)
        except BaseException as error:  # SystemExit of a handler too: the thread has to go on
            logger.exception("a request failed inside the server")
            self.handle_error(None, client, client.address, error)
        finally:
            if parked is None:
                self._poller.give_back(client, rest)
            else:
                self._relays.park(parked)

    def _begin(self, client: ClientSocket) -> Delivery:
        """Parse its request and have the app answer it."""
        try:
            response, environ = self._turns.begin(client)
        except errors.NoMoreData:
            reason = errors.LimitRequestHeaders("head too large") if client.framing.too_large else None
            raise reason or errors.InvalidRequestLine("not a request") from None
        # It has its thread, and is small or about to be checked for its signature.
        self._poller.release(client)
        app: Any = self.wsgi
        body = app(environ, response.start_response)
        return Delivery(client, response, body, environ.get(HELD))

    # -- errors before the app, on threads of the pool ----------------------------------------------------

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """What never reached the app: a head that cannot be parsed, or a fault inside gunicorn.

        The answer is JSON as everywhere else, and neither it nor the log repeats what the client sent, which
        may hold a key.
        """
        # Errors about the heads of our own answers are ParseExceptions too, but not the client's fault.
        ours = type(exc).__name__.startswith("InvalidResponse")
        if isinstance(exc, errors.ParseException) and not ours:
            status = _STATUS.get(type(exc), HTTPStatus.BAD_REQUEST)
            logger.info("%d: a request could not be parsed (%s)", status, type(exc).__name__)
            message = f"the request cannot be parsed: {_REASON.get(type(exc), 'it is malformed')}"
        else:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            message = "internal error of the worker; its log says more"
        with contextlib.suppress(OSError):  # the client may be gone
            client.send_all(error_answer(status, message))

    def __repr__(self) -> str:
        return f"<HardenedThreadWorker {self._poller!r} {self._pool!r} {self._relays!r}>"

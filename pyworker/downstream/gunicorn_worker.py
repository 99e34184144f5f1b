"""gunicorn's threaded worker, hardened: no client can hold up the others, and a drain loses no request.

pyworker/README.md says which thread does what and owns what. Here the main thread runs `run`, the pool's
threads run `work`, and signal handlers only note the signal: gunicorn's wake-up pipe (`self.PIPE`) makes the
event loop return, and `run` acts.

gunicorn is pinned to a narrow range, since this builds upon its internals: test_gunicorn_pin.py names each of
them and fails when one changes.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import time
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn import sock as gunicorn_sock
from gunicorn.http import errors
from gunicorn.workers import base
from gunicorn.workers.gthread import ThreadWorker

from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.event_loop import EventLoop
from pyworker.downstream.head_cache import HeadCache
from pyworker.downstream.loopback import open_when_free
from pyworker.downstream.relay import Relays
from pyworker.downstream.request import MissingHost
from pyworker.downstream.request_reader import error_response
from pyworker.downstream.response_writer import Delivery
from pyworker.runtime.signals import REFUSED_SIGNALS
from pyworker.runtime.thread_pool import ThreadPool
from pyworker.wsgi_extensions import HELD

if TYPE_CHECKING:
    from pyworker.worker import Worker

logger = logging.getLogger(__name__)

#: Pool threads that run at the same time: one holds the GIL, one enters or leaves a system call.
_CONCURRENCY = 2
#: Sending over TLS releases the GIL. If requests want it too, one relay alone would get it back too late; if
#: not, several would only compete for it.
_TLS_RELAYS = 4
_ROUND = 1.0
_DRAIN_ROUND = 0.2
#: A SIGTERM to the whole process group comes twice: from its sender and from gunicorn's master.
_SAME_STOP = 0.3
#: Seconds from the second SIGTERM until the remaining connections are closed.
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

    # gunicorn would set these back to their default, by which SIGHUP ends the process. They stay ignored.
    SIGNALS = [number for number in ThreadWorker.SIGNALS if number not in REFUSED_SIGNALS]  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Set by `post_fork` of gunicorn.conf.py in the new process: the worker behind the app, and the app
        #: of the loopback port.
        self.pyworker: Worker | None = None
        self.callback_app: Any = None
        # Written by the signal handler, read by the main thread.
        self._stopped_at: float | None = None
        self._is_hurried = False

    # -- main thread -------------------------------------------------------------------------------------

    def init_process(self) -> None:
        """In the new process; calls `run`."""
        self._pool: ThreadPool[ClientSocket | Delivery] = ThreadPool(
            self.cfg.threads, self.work, concurrency=_CONCURRENCY
        )
        self._relays = Relays(
            _TLS_RELAYS if self.cfg.is_ssl else 1,
            self._pool.submit_first,
            self._pool.nudge_stalled,
            lambda: self._pool.is_behind,
        )
        self._heads = HeadCache(self.cfg, lambda: not self.alive)
        # Not ThreadWorker's, which makes its own pool and poller.
        base.Worker.init_process(self)

    def run(self) -> None:
        """Serve until a signal stops this worker, then drain."""
        assert self.pyworker is not None, "post_fork of gunicorn.conf.py was not called"
        worker = self.pyworker
        self._event_loop = EventLoop(
            self._pool.submit,
            worker.watcher.notify,
            self._pool.nudge_stalled,
            max_connections=self.cfg.worker_connections,
            max_large=max(1, self.cfg.threads // 4),
            max_body=worker.settings.max_body_bytes,
            keepalive=self.cfg.keepalive,
        )
        worker.connections = self._event_loop.connections
        # These objects live until the end. Searching them for garbage would stop every request for 25 ms
        # each time.
        gc.collect()
        gc.freeze()
        self._relays.start()
        self._event_loop.wake_by(self.PIPE[0])
        wrap_tls = functools.partial(gunicorn_sock.ssl_wrap_socket, conf=self.cfg)
        tls = wrap_tls if self.cfg.is_ssl else None
        self._event_loop.listen(Listener(sock, self.wsgi, tls) for sock in self.sockets)
        loopback = open_when_free(self.callback_app, worker.settings.worker_http_port)
        while self.alive:
            self.notify()
            self._event_loop.listen(next(loopback, ()))
            self._event_loop.serve(_ROUND)
            if not self.is_parent_alive():
                break
        self.alive = False
        self._drain(worker)
        self._event_loop.close()
        self._relays.stop(_ROUND)
        self._pool.close()

    def _drain(self, worker: Worker) -> None:
        """Refuse new requests. Wait for those in hand, and abort them at DRAIN_TIMEOUT or a second
        SIGTERM.
        """
        worker.drain()
        self._event_loop.drain()
        now = time.monotonic()
        abort_at, end = now + worker.settings.drain_timeout, now + self.cfg.graceful_timeout
        hurries = False
        while not self._event_loop.is_drained and now < end:
            if self._is_hurried and not hurries:
                hurries, end = True, now + _HURRY_SECONDS
                worker.abort_requests("second SIGTERM")
            elif now >= abort_at:
                abort_at = math.inf
                worker.abort_requests("drain timeout")
            self.notify()
            self._event_loop.serve(_DRAIN_ROUND)
            now = time.monotonic()

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
        """SIGUSR1: log the state of connections and threads."""
        super().handle_usr1(sig, frame)
        logger.info("%r", self)

    # -- threads of the pool -----------------------------------------------------------------------------

    def work(self, item: ClientSocket | Delivery) -> None:
        """One request of a connection, or the rest of its response; until that is parked or given back."""
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
        except (TimeoutError, BlockingIOError):  # the second from SO_SNDTIMEO
            logger.info("closed a connection: the client did not read its response in time")
        except OSError as error:
            logger.debug("connection lost: %s", type(error).__name__)
        except BaseException as error:  # SystemExit of a handler too: the thread has to go on
            logger.exception("a request failed inside the server")
            self.handle_error(None, client, client.address, error)
        finally:
            if parked is None:
                self._event_loop.give_back(client, rest)
            else:
                self._relays.park(parked)

    def _begin(self, client: ClientSocket) -> Delivery:
        """Parse its request and call the app."""
        try:
            response, environ = self._heads.begin(client)
        except errors.NoMoreData:
            if client.framing.too_large:
                raise errors.LimitRequestHeaders("header block too large") from None
            raise errors.InvalidRequestLine("not a request") from None
        # It has its thread, and is small, or its signature is checked next.
        self._event_loop.release(client)
        body = client.listener.app(environ, response.start_response)
        return Delivery(client, response, body, environ.get(HELD))

    # -- errors before the app, on threads of the pool ----------------------------------------------------

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """A request that never reached the app: a header block that cannot be parsed, or an internal error.

        The response is JSON, as everywhere else. Neither it nor the log repeats what the client sent, which
        may contain a key.
        """
        # Errors in the header fields of our own responses are ParseExceptions too, but not the client's
        # fault.
        ours = type(exc).__name__.startswith("InvalidResponse")
        if isinstance(exc, errors.ParseException) and not ours:
            status = _STATUS.get(type(exc), HTTPStatus.BAD_REQUEST)
            logger.info("%d: a request could not be parsed (%s)", status, type(exc).__name__)
            message = f"the request cannot be parsed: {_REASON.get(type(exc), 'it is malformed')}"
        else:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            message = "internal error of the worker; its log says more"
        with contextlib.suppress(OSError):  # the client may be gone
            client.send_all(error_response(status, message))

    def __repr__(self) -> str:
        return f"<HardenedThreadWorker {self._event_loop!r} {self._pool!r} {self._relays!r}>"

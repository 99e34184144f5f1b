"""gunicorn's threaded worker, which drains honestly and answers errors like the rest of the worker."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from pyworker.app import worker_of

if TYPE_CHECKING:
    import flask

_STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


class DrainingThreadWorker(ThreadWorker):
    """A ThreadWorker with a voice of its own. `handle_error` runs on pool threads, the rest on the main one.

    At SIGTERM readiness is off before it waits for the requests in hand, and new clients are refused instead
    of left waiting on a socket nobody accepts from.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM. Runs between two bytecodes of the main thread, which holds none of the app's locks."""
        worker_of(cast("flask.Flask", self.app.wsgi())).drain()
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """Called with False when the drain begins: then the listeners are closed."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                listener.close()

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

"""A second, plain port for the model server on this machine. Reachable from nowhere else."""

from __future__ import annotations

import logging
import socketserver
import threading
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
#: Seconds between two tries of a port that is taken.
RETRY_SECONDS = 1.0


class _Handler(WSGIRequestHandler):
    timeout = 10.0

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Silent: a request line may hold anything."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    # A callback that never ends its request must not keep the process alive; the handler's timeout ends it.
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Without the look-up of the host's name, which may hang."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.server_address[1]
        self.setup_environ()


class LoopbackServer:
    """Serves `app` on 127.0.0.1, as a service of the runtime.

    A port that is taken is tried until it is free: soon, if the process before only finishes its requests.
    """

    name = "pyworker-loopback"

    def __init__(self, app: WSGIApplication, port: int) -> None:
        self._app = app
        self._port = port
        self._stopping = threading.Event()
        # Guards _server: it is made by the thread and shut down by whoever joins that.
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        server = self._bind()
        if server is None:
            return
        server.set_app(self._app)
        with server:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._server = server
            server.serve_forever(poll_interval=0.1)

    def _bind(self) -> _Server | None:
        """Listen as soon as the port is free; None if that is not before `stop`."""
        told = False
        while not self._stopping.is_set():
            try:
                server = _Server((_HOST, self._port), _Handler)
            except OSError as error:
                if not told:
                    logger.warning(
                        "the model server cannot end sessions through port %d (%s): tried until it is free; "
                        "WORKER_HTTP_PORT names another",
                        self._port,
                        error.strerror,
                    )
                told = True
                self._stopping.wait(RETRY_SECONDS)
            else:
                if told:
                    logger.info(
                        "port %d is free now: the model server can end sessions through it", self._port
                    )
                return server
        return None

    def stop(self) -> None:
        """What waits is done in `join`."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        with self._lock:
            server = self._server
        if server is not None:
            server.shutdown()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def __repr__(self) -> str:
        return f"<LoopbackServer port {self._port}{'' if self._server else ', closed'}>"

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
    """Serves `app` on 127.0.0.1, as a service of the runtime. A port that is taken is a warning."""

    name = "pyworker-loopback"

    def __init__(self, app: WSGIApplication, port: int) -> None:
        self._app = app
        self._port = port
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        try:
            self._server = _Server((_HOST, self._port), _Handler)
        except OSError as error:
            logger.warning(
                "the model server cannot end sessions through port %d (%s): set WORKER_HTTP_PORT",
                self._port,
                error.strerror,
            )
            return
        self._server.set_app(self._app)
        self._thread.start()

    def _run(self) -> None:
        assert self._server is not None
        with self._server:
            self._server.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """All is done in `join`, since it waits."""

    def join(self, timeout: float) -> bool:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def __repr__(self) -> str:
        return f"<LoopbackServer port {self._port}{'' if self._server else ', closed'}>"

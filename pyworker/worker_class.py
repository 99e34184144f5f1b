"""gunicorn's threaded worker, which tells the app and the world as soon as it has to end."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, cast

from gunicorn.workers.gthread import ThreadWorker

from pyworker.app import worker_of

if TYPE_CHECKING:
    import flask


class DrainingThreadWorker(ThreadWorker):
    """A ThreadWorker that drains honestly. Everything here runs on the main thread.

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

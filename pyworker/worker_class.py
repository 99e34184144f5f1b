"""gunicorn's threaded worker, which tells the app as soon as it has to end."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, cast

from gunicorn.workers.gthread import ThreadWorker

from pyworker.app import worker_of

if TYPE_CHECKING:
    import flask


class DrainingThreadWorker(ThreadWorker):
    """A ThreadWorker that turns readiness off at SIGTERM, before it waits for the requests in hand."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM. Runs between two bytecodes of the main thread, which holds none of the app's locks."""
        worker_of(cast("flask.Flask", self.app.wsgi())).drain()
        super().handle_exit(sig, frame)

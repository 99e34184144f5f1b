"""A client hangs up while its request is in hand: the event loop notices, and the request is notified."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable

from pyworker.wsgi_extensions import Presence

logger = logging.getLogger(__name__)


class DisconnectWatcher:
    """Notifies requests that their client is gone, on a thread of its own: the event loop must not block.

    Thread-safe. A request may be notified more than once.
    """

    def __init__(self) -> None:
        self._gone: queue.SimpleQueue[Presence | None] = queue.SimpleQueue()

    def watch(self, presence: Presence, on_gone: Callable[[], None]) -> None:
        """Have `on_gone` called once this client hangs up, or has done so already. Set it to None to stop."""
        presence.on_gone = on_gone
        # After that: of the request's thread and the event loop, whichever comes second sees the other's
        # write.
        if presence.is_gone:
            self.notify(presence)

    def notify(self, presence: Presence) -> None:
        """This client has hung up. Never blocks."""
        self._gone.put(presence)

    def step(self) -> float:
        """Wait until a client hangs up, or until `stop`; then notify its request."""
        presence = self._gone.get()
        on_gone = None if presence is None else presence.on_gone
        if on_gone is not None:
            try:
                on_gone()
            except Exception:
                logger.exception("a callback of the disconnect watcher failed")
        return 0.0

    def stop(self) -> None:
        """Make `step` return immediately."""
        self._gone.put(None)

    def __repr__(self) -> str:
        return f"<DisconnectWatcher [{self._gone.qsize()} to notify]>"

"""A client hung up while its request waits or is being answered: the poller knows, the request is told."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable

from pyworker.wsgi_extensions import Presence

logger = logging.getLogger(__name__)


class DisconnectWatcher:
    """Tells requests that their client is gone, on a thread of its own: the poller must not wait for them.

    Thread-safe. A request may be told more than once.
    """

    def __init__(self) -> None:
        self._gone: queue.SimpleQueue[Presence | None] = queue.SimpleQueue()

    def watch(self, presence: Presence, on_gone: Callable[[], None]) -> None:
        """Have `on_gone` called once this client hangs up, or has done so already."""
        presence.on_gone = on_gone
        # After that: whichever of the two comes second, the request's thread or the poller, sees the other.
        if presence.is_gone:
            self.tell(presence)

    def unwatch(self, presence: Presence) -> None:
        """Stop watching. The callback may just be running."""
        presence.on_gone = None

    def tell(self, presence: Presence) -> None:
        """This client has hung up. Never blocks."""
        self._gone.put(presence)

    def step(self) -> float:
        """Wait until a client leaves, or until `stop`; then tell who asked."""
        presence = self._gone.get()
        on_gone = None if presence is None else presence.on_gone
        if on_gone is not None:
            try:
                on_gone()
            except Exception:
                logger.exception("a callback of the disconnect watcher failed")
        return 0.0

    def stop(self) -> None:
        """Make `step` return at once."""
        self._gone.put(None)

    def __repr__(self) -> str:
        return f"<DisconnectWatcher [{self._gone.qsize()} to tell]>"

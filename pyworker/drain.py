"""The end of a worker: what is still in hand when the time is up is cut."""

from __future__ import annotations

import logging
import threading

from pyworker.exchange import SHUTDOWN, OpenExchanges
from pyworker.lifecycle import ModelLifecycle, ModelState

logger = logging.getLogger(__name__)


class Drain:
    """Gives the requests in hand `timeout` seconds from the start of a drain. One thread runs `step`."""

    def __init__(self, lifecycle: ModelLifecycle, exchanges: OpenExchanges, timeout: float) -> None:
        self._lifecycle = lifecycle
        self._exchanges = exchanges
        self._timeout = timeout
        self._stopping = threading.Event()
        self._over = threading.Event()

    def step(self) -> None:
        """Wait for the drain to begin, then for its end or `stop`."""
        self._lifecycle.wait_while(lambda status: status.state is not ModelState.DRAINING)
        if self._lifecycle.state is not ModelState.DRAINING:
            return
        logger.info("draining: requests in hand have %g s", self._timeout)
        self._over.wait(self._timeout)
        if not self._stopping.is_set():
            count = self._exchanges.cut(SHUTDOWN)
            logger.warning("the time is up; %d requests were cut", count)

    def hurry(self) -> None:
        """The time is up now."""
        self._over.set()

    def stop(self) -> None:
        """Make `step` return."""
        self._stopping.set()
        self._over.set()
        self._lifecycle.close()

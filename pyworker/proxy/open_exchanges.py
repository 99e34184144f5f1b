"""Exchanges that can be aborted together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.errors import NotReady, RequestError
from pyworker.reporting.wire import Outcome

if TYPE_CHECKING:
    from pyworker.proxy.exchange import Exchange


@dataclass(frozen=True)
class AbortReason:
    """Why requests in hand are aborted: their outcome, and the error response if none has begun.

    is_final: no request comes after them, so the model server's end of the call need not be awaited.
    """

    outcome: Outcome
    error: Callable[[], RequestError]
    is_final: bool = False


SHUTDOWN = AbortReason(Outcome.ERROR, lambda: NotReady("the worker is shutting down"), is_final=True)


class OpenExchanges:
    """The exchanges of the worker, or of a session, which can be aborted together. Thread-safe."""

    def __init__(self) -> None:
        # Guards _open and _aborted.
        self._lock = threading.Lock()
        self._open: set[Exchange] = set()
        self._aborted: AbortReason | None = None

    def add(self, exchange: Exchange) -> None:
        """Register an admitted exchange. After `abort` it is aborted immediately."""
        with self._lock:
            self._open.add(exchange)
            aborted = self._aborted
        if aborted is not None:
            exchange.abort(aborted)

    def discard(self, exchange: Exchange) -> None:
        """Forget an exchange that has ended."""
        with self._lock:
            self._open.discard(exchange)

    def abort(self, reason: AbortReason) -> int:
        """Abort every open exchange and every later one. Returns how many were open."""
        with self._lock:
            self._aborted = reason
            exchanges = list(self._open)
        for exchange in exchanges:
            exchange.abort(reason)
        return len(exchanges)

    @property
    def count(self) -> int:
        """How many are open. Each has its place in the queue."""
        return len(self._open)

    def __repr__(self) -> str:
        return f"<OpenExchanges [{self.count} open]>"

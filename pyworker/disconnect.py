"""The thread that notices that a client hung up while its request waits or is being answered."""

from __future__ import annotations

import logging
import os
import select
import threading
import weakref
from collections.abc import Callable

logger = logging.getLogger(__name__)


class DisconnectWatcher:
    """Watches the sockets of the clients in hand. Thread-safe; callbacks run on its own thread.

    A watched descriptor must be unwatched before it is closed.
    """

    def __init__(self) -> None:
        # Guards _callbacks (descriptor -> what to do once its client is gone).
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        # Also where nobody calls `close`: an app that never served, in a test.
        self._close = weakref.finalize(self, _close, self._epoll, self._wake_read, self._wake_write)

    def watch(self, descriptor: int, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once when the peer of this socket has closed its side."""
        with self._lock:
            self._callbacks[descriptor] = on_gone
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching; without effect where it is not watched. The callback may just be running."""
        with self._lock:
            known = self._callbacks.pop(descriptor, None) is not None
        if known:
            try:
                self._epoll.unregister(descriptor)
            except (OSError, ValueError):
                logger.debug("a watched socket was closed early")

    def step(self) -> float:
        """Wait until clients leave, or until `stop`; then tell who asked."""
        for descriptor, _ in self._epoll.poll():
            if descriptor != self._wake_read:
                self._tell(descriptor)
        return 0.0

    def _tell(self, descriptor: int) -> None:
        with self._lock:
            on_gone = self._callbacks.get(descriptor)
        # Between the wake-up and now the descriptor may have been closed and given to another client.
        if on_gone is None or not _is_gone(descriptor):
            return
        try:
            on_gone()
        except Exception:
            logger.exception("a callback of the disconnect watcher failed")

    def stop(self) -> None:
        """Make `step` return at once, now and ever after."""
        os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Give the descriptors back; only once `step` runs no more. Idempotent."""
        self._close()

    def __repr__(self) -> str:
        return f"<DisconnectWatcher [{len(self._callbacks)} clients]>"


def _close(epoll: select.epoll, *pipe: int) -> None:
    epoll.close()
    for descriptor in pipe:
        os.close(descriptor)


def _is_gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))

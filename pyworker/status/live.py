"""A stream of what a worker does, for each page that watches it.

What is shown is read once a second for all of them, on one thread; nothing is read while nobody watches. A
stream waits in the relay (`downstream/relay.py`), as those of the model server do, and holds no thread there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Mapping

from pyworker.errors import TooManyViewers
from pyworker.runtime.nonblocking import Receiver
from pyworker.runtime.server_sent_events import event
from pyworker.runtime.services import Loop, Wake
from pyworker.runtime.thread_pool import waiting
from pyworker.wsgi_extensions import Arrival, PollableBody, PollableSource

MAX_VIEWERS = 4
_INTERVAL = 1.0
# For pages that come one after the other.
_LEAST_INTERVAL = 0.2
# A stream whose client does not keep up holds a thread of the pool. It ends after this many seconds; a page
# comes again, and then waits in the relay.
_WITH_THREAD = 60.0


class Viewer(PollableSource):
    """One stream. Belongs to one thread at a time; `notify` and `end` may be called from any."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Of each section, the number of the event that was sent.
        self._sent: dict[str, int] = {}
        self._news = threading.Event()
        self._is_over = False
        self.body = PollableBody(self._pieces(), self)

    def notify(self) -> None:
        """There may be something to send. Called under the lock of `Live`, so that it is open."""
        self._news.set()
        os.eventfd_write(self._descriptor, 1)

    def end(self) -> None:
        """Let the stream end after what there is to send. May be called again."""
        self._is_over = True
        self._live.notify(self)

    def close(self) -> None:
        """The server is done with it. May be called again."""
        if self._live.remove(self):
            os.close(self._descriptor)

    # -- while it is parked -------------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        return self._descriptor

    @property
    def timeout(self) -> float | None:
        return None

    @property
    def is_drained(self) -> bool:
        return not self._is_over

    def take_in(self, receiver: Receiver) -> Arrival:  # noqa: ARG002 - there is nothing to receive
        os.eventfd_read(self._descriptor)
        if self._is_over:
            return Arrival.MORE
        return Arrival.PIECE if self._live.has_news(self._sent) else Arrival.NOTHING

    def give_up_waiting(self) -> None:
        """It has no timeout."""

    # -- the pieces ---------------------------------------------------------------------------------------

    def _pieces(self) -> Generator[bytes, None, None]:
        end = time.monotonic() + _WITH_THREAD
        while True:
            self._news.clear()
            is_over = self._is_over
            if piece := self._live.news(self._sent):
                yield piece
                continue
            # Reached on a thread of the pool only: the relay asks for no piece before there is one.
            if is_over or time.monotonic() > end:
                return
            with waiting:
                self._news.wait(_INTERVAL)


class Live:
    """What the pages show, in sections, and the streams. Thread-safe."""

    def __init__(
        self, sections: Callable[[], Mapping[str, object]], is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """sections: their names and values of now, for JSON. is_over: whether every stream is to end."""
        self._sections = sections
        self._is_over = is_over
        self._wake = Wake()
        # Guards _viewers and _events (of each section, the number of its last event, and the event).
        self._lock = threading.Lock()
        self._viewers: list[Viewer] = []
        self._events: dict[str, tuple[int, bytes]] = {}
        #: Reads and notifies.
        self.loop = Loop("pyworker-live", self.step, wake=self._wake, hold=_LEAST_INTERVAL)

    def open(self) -> Viewer:
        """One more stream. Raises `TooManyViewers`."""
        with self._lock:
            if len(self._viewers) >= MAX_VIEWERS:
                raise TooManyViewers(f"{MAX_VIEWERS} pages watch this worker already; close one of them")
            viewer = Viewer(self)
            self._viewers.append(viewer)
        self._wake()
        return viewer

    def step(self) -> float | None:
        """Read what there is now, and notify the streams; returns the seconds until the next time."""
        with self._lock:
            if not self._viewers:
                # A page that comes later must not see what was.
                self._events.clear()
                return None
        is_over = self._is_over()
        sections = {name: event(name, value) for name, value in self._sections().items()}
        with self._lock:
            for name, data in sections.items():
                number, before = self._events.get(name, (0, b""))
                if data != before:
                    self._events[name] = (number + 1, data)
            viewers = list(self._viewers)
            for viewer in viewers:
                viewer.notify()
        for viewer in viewers if is_over else ():
            viewer.end()
        return _INTERVAL

    def has_news(self, sent: Mapping[str, int]) -> bool:
        """Whether a section has changed since these numbers."""
        with self._lock:
            return any(sent.get(name) != number for name, (number, _) in self._events.items())

    def news(self, sent: dict[str, int]) -> bytes:
        """The events of the sections that have changed since these numbers, which are brought up to date."""
        with self._lock:
            changed = {name: found for name, found in self._events.items() if sent.get(name) != found[0]}
        sent.update((name, number) for name, (number, _) in changed.items())
        return b"".join(data for _, data in changed.values())

    def notify(self, viewer: Viewer) -> None:
        """Unless it is closed."""
        with self._lock:
            if viewer in self._viewers:
                viewer.notify()

    def remove(self, viewer: Viewer) -> bool:
        """It ends; False if it was removed before."""
        with self._lock:
            is_open = viewer in self._viewers
            if is_open:
                self._viewers.remove(viewer)
        return is_open

    def __repr__(self) -> str:
        return f"<Live [{len(self._viewers)} of {MAX_VIEWERS} watch]>"

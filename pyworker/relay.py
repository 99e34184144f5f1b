"""Streams that wait for the model server: all of them on one thread or a few, instead of one on each.

A thread that waits for each token of its stream has to be woken for each, and then to queue for the
interpreter. Here one thread waits for many of them and passes on whatever has come. It never blocks: what
might (a client that does not take it, the end of an answer, an error) goes back to the pool.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pyworker.nowait import Receiver
from pyworker.runtime import Loop

_ROUND = 1.0
_READ_SIZE = 64 * 1024


class Stream(Protocol):
    """What can be parked. It belongs to the relay meanwhile."""

    #: When the model server will have been silent for too long (monotonic); None for never.
    deadline: float | None

    @property
    def descriptor(self) -> int:
        """Of the connection to the model server."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds for which the model server may be silent."""
        ...

    def pass_on(self, receiver: Receiver) -> bool:
        """What has come; False to leave the relay. Never waits, never raises."""
        ...

    def give_up_waiting(self) -> None:
        """The model server was silent for too long."""
        ...

    def stay(self) -> None:
        """It is not to be parked again."""
        ...


Parked = TypeVar("Parked", bound=Stream)


class Relay(Generic[Parked]):
    """One thread runs `step`; `park` and `wake` may be called from any."""

    def __init__(self, resume: Callable[[Parked], None], nudge_stalled: Callable[[], float]) -> None:
        """resume: have a thread of the pool go on with this one.
        nudge_stalled: have begun what waits for too long; when to call it again, in seconds. Neither may
        block.
        """
        self._resume = resume
        self._nudge_stalled = nudge_stalled
        self._epoll = select.epoll()
        self._receiver = Receiver(_READ_SIZE)
        self._wake_descriptor = os.eventfd(0)
        self._epoll.register(self._wake_descriptor, select.EPOLLIN)
        # Guards each change of _parked (descriptor to the model server -> stream), and looking through it.
        self._lock = threading.Lock()
        self._parked: dict[int, Parked] = {}

    @property
    def parked(self) -> int:
        """How many streams it has."""
        return len(self._parked)

    def park(self, stream: Parked) -> None:
        """Pass on what comes for this one. It is the relay's from here on."""
        descriptor, timeout = stream.descriptor, stream.timeout
        stream.deadline = None if timeout is None else time.monotonic() + timeout
        if not self._watch(descriptor, stream):
            stream.stay()
            self._resume(stream)

    def _watch(self, descriptor: int, stream: Parked) -> bool:
        with self._lock:
            # Known before epoll can tell of it.
            self._parked[descriptor] = stream
            try:
                self._epoll.register(descriptor, select.EPOLLIN)
            except (OSError, ValueError):  # the system watches no more of them, or the process ends
                del self._parked[descriptor]
                return False
        return True

    def step(self) -> float:
        """Pass on what model servers say, for a while or until woken; then look at the deadlines."""
        now = time.monotonic()
        end = now + _ROUND
        woken = False
        while not woken and now < end:
            events = self._epoll.poll(min(end - now, self._nudge_stalled()))
            now = time.monotonic()
            for descriptor, _ in events:
                if descriptor == self._wake_descriptor:
                    os.eventfd_read(descriptor)
                    woken = True
                else:
                    self._pass_on(descriptor, now)
        self._sweep(now)
        return 0.0

    def _pass_on(self, descriptor: int, now: float) -> None:
        stream = self._parked[descriptor]
        if not stream.pass_on(self._receiver):
            self._release(descriptor)
        elif stream.deadline is not None:
            stream.deadline = now + (stream.timeout or 0.0)

    def _sweep(self, now: float) -> None:
        with self._lock:
            parked = list(self._parked.items())
        for descriptor, stream in parked:
            if stream.deadline is not None and stream.deadline <= now:
                stream.give_up_waiting()
                self._release(descriptor)

    def _release(self, descriptor: int) -> None:
        with self._lock:
            stream = self._parked.pop(descriptor)
        # Before anybody else may close it.
        self._epoll.unregister(descriptor)
        self._resume(stream)

    def wake(self) -> None:
        """Make `step` return at once."""
        os.eventfd_write(self._wake_descriptor, 1)

    def close(self) -> None:
        """After the last `step`."""
        self._epoll.close()
        os.close(self._wake_descriptor)

    def __repr__(self) -> str:
        return f"<Relay [{self.parked} parked]>"


class Relays(Generic[Parked]):
    """So many relays with their threads. `park` may be called from any thread, the rest from one."""

    def __init__(
        self,
        count: int,
        resume: Callable[[Parked], None],
        nudge_stalled: Callable[[], float],
        are_needed: Callable[[], bool],
    ) -> None:
        """resume, nudge_stalled: as for each `Relay`. are_needed: whether to use more than the first of them
        now.
        """
        self._are_needed = are_needed
        self._relays = [Relay(resume, nudge_stalled) for _ in range(count)]
        self._loops = [
            Loop(f"pyworker-relay-{number}", relay.step, on_stop=relay.wake, on_end=relay.close)
            for number, relay in enumerate(self._relays, start=1)
        ]

    def start(self) -> None:
        """From here on what is parked is passed on."""
        for loop in self._loops:
            loop.start()

    def park(self, stream: Parked) -> None:
        """Have the first pass on what comes for this one, or where all are needed the one with the fewest."""
        relays = self._relays if self._are_needed() else self._relays[:1]
        min(relays, key=lambda relay: relay.parked).park(stream)

    def stop(self, timeout: float) -> None:
        """End the threads, and wait so many seconds for each. What is parked stays where it is."""
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join(timeout)

    def __repr__(self) -> str:
        return f"<Relays [{', '.join(str(relay.parked) for relay in self._relays)} parked]>"

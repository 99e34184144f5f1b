"""Streams that wait for the model server: many on one thread, instead of a thread for each.

A relay never blocks: what might (a client that does not read, the end of a response, an error) goes back to
the pool.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pyworker.runtime.limits import READ_SIZE
from pyworker.runtime.nonblocking import Receiver
from pyworker.runtime.services import Loop

_ROUND = 1.0


class Stream(Protocol):
    """What can be parked. While it is, it belongs to the relay."""

    #: Seconds for which the model server may be silent; None for any time.
    timeout: float | None
    #: When that time is over (monotonic); None for never.
    deadline: float | None

    @property
    def descriptor(self) -> int:
        """Of the connection to the model server."""
        ...

    def pass_on(self, receiver: Receiver) -> bool:
        """Relay what has arrived; False to leave the relay. Never blocks, never raises."""
        ...

    def give_up_waiting(self) -> None:
        """The model server was silent for too long."""

    def stay(self) -> None:
        """It is not to be parked again."""


Parked = TypeVar("Parked", bound=Stream)


class Relay(Generic[Parked]):
    """One thread runs `step`; `park` and `wake` may be called from any."""

    def __init__(self, resume: Callable[[Parked], None], nudge_stalled: Callable[[], float]) -> None:
        """resume: have a thread of the pool continue with this one. Must not block.
        nudge_stalled: have items begun that wait for too long; returns the seconds until it is due again.
        """
        self._resume = resume
        self._nudge_stalled = nudge_stalled
        self._epoll = select.epoll()
        self._receiver = Receiver(READ_SIZE)
        self._wake_descriptor = os.eventfd(0)
        self._epoll.register(self._wake_descriptor, select.EPOLLIN)
        # Guards each change of _parked (descriptor to the model server -> stream), and looking through it.
        self._lock = threading.Lock()
        self._parked: dict[int, Parked] = {}

    @property
    def parked(self) -> int:
        """How many streams are parked here."""
        return len(self._parked)

    def park(self, stream: Parked) -> None:
        """Relay what arrives for this one, which belongs to the relay from now on."""
        descriptor, timeout = stream.descriptor, stream.timeout
        stream.deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            # Before epoll can report it.
            self._parked[descriptor] = stream
            try:
                self._epoll.register(descriptor, select.EPOLLIN)
                return
            except (OSError, ValueError):  # the system watches no more of them, or the process ends
                del self._parked[descriptor]
        stream.stay()
        self._resume(stream)

    def step(self) -> float:
        """Relay what arrives, for a second or until woken; then look at the deadlines."""
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
        # Before another thread may close it.
        self._epoll.unregister(descriptor)
        self._resume(stream)

    def wake(self) -> None:
        """Make `step` return."""
        os.eventfd_write(self._wake_descriptor, 1)

    def close(self) -> None:
        """After the last `step`."""
        self._epoll.close()
        os.close(self._wake_descriptor)

    def __repr__(self) -> str:
        return f"<Relay [{self.parked} parked]>"


class Relays(Generic[Parked]):
    """Several relays with their threads. `park` may be called from any thread, the rest from one."""

    def __init__(
        self,
        count: int,
        resume: Callable[[Parked], None],
        nudge_stalled: Callable[[], float],
        are_needed: Callable[[], bool],
    ) -> None:
        """resume, nudge_stalled: as for `Relay`. are_needed: whether to use more than the first relay now."""
        self._are_needed = are_needed
        self._relays = [Relay(resume, nudge_stalled) for _ in range(count)]
        self._loops = [
            Loop(f"pyworker-relay-{number}", relay.step, on_stop=relay.wake, on_end=relay.close)
            for number, relay in enumerate(self._relays, start=1)
        ]

    def start(self) -> None:
        """Start the threads."""
        for loop in self._loops:
            loop.start()

    def park(self, stream: Parked) -> None:
        """Park it with the first relay; if all are needed, with the one that has the fewest streams."""
        relays = self._relays if self._are_needed() else self._relays[:1]
        min(relays, key=lambda relay: relay.parked).park(stream)

    def stop(self, timeout: float) -> None:
        """End the threads, and wait for each at most `timeout` seconds. What is parked stays parked."""
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join(timeout)

    def __repr__(self) -> str:
        return f"<Relays [{', '.join(str(relay.parked) for relay in self._relays)} parked]>"

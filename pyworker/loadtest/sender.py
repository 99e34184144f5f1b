"""Sends the requests of a test, each by itself or in conversations."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from pyworker.loadtest.exchange import Cancelling, Direct, Exchange
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.payloads import Payloads
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.record import Record
from pyworker.loadtest.sessions import Sessions
from pyworker.loadtest.talker import Talker
from pyworker.loadtest.targets import Called


class AnySender(Protocol):
    """What an engine sends with. stopping: set to start nothing more."""

    stopping: threading.Event

    def send(self, number: int, due: float) -> None:
        """Returns when it has ended; never raises."""
        ...

    def close(self) -> None:
        """Leave nothing behind at the target."""
        ...

    @property
    def described(self) -> str:
        """What a report has to say of it."""
        ...


class Sender:
    """Any thread may send.

    first: the number of the first request's payload, so that the parts of a test do not all send the same.
    """

    def __init__(
        self, called: Called, payloads: Payloads, measurement: Measurement, exchange: Exchange, first: int = 0
    ) -> None:
        self.stopping = threading.Event()
        self._line = Direct(called)
        self._payloads = payloads
        self._measurement = measurement
        self._exchange = exchange
        self._first = first

    def send(self, number: int, due: float) -> None:
        """One request."""
        prepared = self._payloads.of(self._first + number)
        record = Record(due, time.monotonic(), prepared.workload, input_tokens=prepared.input_tokens)
        self._exchange.perform(self._line, self._exchange.fields(prepared), record)

    def close(self) -> None:
        pass

    @property
    def described(self) -> str:
        return ""


def sender_of(
    plan: Plan,
    called: Called,
    payloads: Payloads,
    measurement: Measurement,
    cancelling: Cancelling,
    first: int = 0,
) -> AnySender:
    """For the requests or the conversations of the plan."""
    exchange = Exchange(called, measurement, stream=plan.stream, cancelling=cancelling)
    if plan.talk is None:
        return Sender(called, payloads, measurement, exchange, first)
    return Talker(
        plan.talk,
        payloads,
        measurement,
        exchange,
        Sessions(called),
        seconds=plan.duration,
        first=first,
        seed=plan.seed,
    )

"""Runs an engine to its end while a view shows the progress."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from pyworker.loadtest.arrivals import due_times
from pyworker.loadtest.engine import ClosedLoop, Engine, OpenLoop
from pyworker.loadtest.live import View
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.sender import AnySender

LOOK_SECONDS = 0.1
INTERRUPTED = "interrupted"

Interrupts = list[int]
"""Grows by one with each Ctrl-C."""


def engine_of(plan: Plan, sender: AnySender) -> Engine:
    """For the load of the plan."""
    send, stopping = sender.send, sender.stopping
    if plan.concurrency is not None:
        return ClosedLoop(send, plan.concurrency, plan.count, plan.duration, stopping)
    if plan.trace is not None:
        moments = (moment for moment in plan.trace.moments[: plan.count] if moment < plan.duration)
        return OpenLoop(send, moments, stopping=stopping)
    moments = due_times(
        plan.rate,
        plan.arrival,
        count=plan.count,
        duration=plan.duration,
        seed=plan.seed,
        burstiness=plan.burstiness,
    )
    return OpenLoop(send, moments, stopping=stopping)


def drive(
    engine: Engine,
    measurement: Measurement,
    view: View,
    interrupts: Interrupts,
    enough: Callable[[], str] = lambda: "",
) -> str:
    """Start the engine and wait until all is done. Why it stopped sending before the end, if it did.

    Ctrl-C ends the sending, a second one the waiting; so does what `enough` gives, a reason.
    """
    measurement.start()
    engine.start()
    next_show = time.monotonic() + view.pause
    stopped = ""
    while not engine.wait(LOOK_SECONDS):
        if len(interrupts) > 1:
            view.say("Not waiting for the responses")
            return INTERRUPTED
        if interrupts and stopped != INTERRUPTED:
            stopped = INTERRUPTED
            engine.stop()
            view.say("Stopped sending, waiting for what is open (Ctrl-C once more: not waiting)")
        elif not stopped and (stopped := enough()):
            engine.stop()
        if time.monotonic() >= next_show:
            next_show += view.pause
            view.show(measurement.glimpse())
    return stopped


@contextmanager
def interrupts() -> Generator[Interrupts]:
    """A Ctrl-C does nothing else meanwhile: it must not come at a bad moment."""
    seen: Interrupts = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)

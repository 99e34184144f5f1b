"""Warns if the throughput of real requests is far from what the benchmark measured."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

#: How many times more, or less, than the benchmark's is worth a warning.
FACTOR = 2.0
#: Seconds over which the throughput is taken.
PERIOD = 300.0
_INTERVAL = 10.0


@dataclass(frozen=True)
class Load:
    """served: workload done since the start; in_hand: requests that are queued or working now."""

    served: float
    in_hand: int


class ThroughputWatch:
    """Compares the workload served in each period with the benchmark. `step` belongs to one thread.

    load: of now; benchmark: workload per second, 0 while the worker is not ready; concurrency: requests that
    the benchmark had in hand. Too low is only what was served while at least as many were in hand all the
    time: a model that has nothing to do is not slow.
    """

    def __init__(self, load: Callable[[], Load], benchmark: Callable[[], float], concurrency: int) -> None:
        self._load = load
        self._benchmark = benchmark
        self._concurrency = concurrency
        self._began: tuple[float, float] | None = None  # time and workload served by then
        self._least_in_hand = 0

    def step(self, now: float) -> float:
        """Look once; returns the seconds until the next time. now: monotonic."""
        load, benchmark = self._load(), self._benchmark()
        if benchmark <= 0:
            self._began = None
            return _INTERVAL
        if self._began is None:
            self._begin(now, load)
            return _INTERVAL
        self._least_in_hand = min(self._least_in_hand, load.in_hand)
        began, served_before = self._began
        if now - began >= PERIOD:
            self._judge((load.served - served_before) / (now - began), benchmark)
            self._begin(now, load)
        return _INTERVAL

    def _begin(self, now: float, load: Load) -> None:
        self._began = now, load.served
        self._least_in_hand = load.in_hand

    def _judge(self, throughput: float, benchmark: float) -> None:
        if throughput > benchmark * FACTOR:
            consequence = "the fleet is larger than it needs to be"
        elif throughput < benchmark / FACTOR and self._least_in_hand >= self._concurrency:
            consequence = "requests wait longer than estimated, and the fleet is too small"
        else:
            return
        logger.warning(
            "real requests had a throughput of %.1f workload/s in the last %.0f s, but the benchmark has "
            "reported %.1f: %s. Do count_workload and the benchmark's payload fit what clients send?",
            throughput,
            PERIOD,
            benchmark,
            consequence,
        )

    def __repr__(self) -> str:
        return f"<ThroughputWatch since {self._began}>"

"""When requests are due: the schedule of an open loop, fixed before the first response arrives."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Arrival = Literal["constant", "poisson", "gamma"]


@dataclass(frozen=True)
class Rate:
    """Requests per second: `first` at first, in a straight line to `last` after `seconds`, then `last`."""

    first: float
    last: float
    seconds: float = 0.0

    def at(self, moment: float) -> float:
        """Requests per second at `moment` seconds after the start."""
        if moment >= self.seconds:
            return self.last
        return self.first + (self.last - self.first) * moment / self.seconds

    def due(self, position: float) -> float:
        """The moment by which `position` requests are due: the inverse of the integral of the rate."""
        if position == 0:
            return 0.0
        in_ramp = self.seconds * (self.first + self.last) / 2
        if position >= in_ramp:
            return self.seconds + (position - in_ramp) / self.last if self.last else math.inf
        slope = (self.last - self.first) / self.seconds
        if slope == 0:
            return position / self.first
        # The smaller root of first * t + slope / 2 * t² = position, in the form that loses no digits.
        return 2 * position / (self.first + math.sqrt(max(0.0, self.first**2 + 2 * slope * position)))


def due_times(
    rate: Rate,
    arrival: Arrival,
    *,
    count: int | None,
    duration: float,
    seed: int | None,
    burstiness: float = 1.0,
) -> Iterator[float]:
    """Seconds from the start at which a request is due, rising.

    Constant: evenly spaced, from 0. Poisson: each independent of the others, as the requests of
    many users are; the same `seed` makes the same times. Gamma: the time between two is distributed by it,
    with the shape `burstiness`: 1 is Poisson, less than that more in bursts; the mean rate is the same.
    """
    generator = random.Random(seed)

    shape = burstiness if arrival == "gamma" else 1.0

    def gap() -> float:
        return 1.0 if arrival == "constant" else generator.gammavariate(shape, 1 / shape)

    position = 0.0 if arrival == "constant" else gap()
    made = 0
    while count is None or made < count:
        moment = rate.due(position)
        if not moment < duration:
            return
        yield moment
        made += 1
        position += gap()

"""A histogram of plain numbers, and the buckets that vLLM uses."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily, Metric

#: Seconds until the first token.
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
#: Seconds for each of the others.
NEXT_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
#: Seconds for a whole request.
WHOLE = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
#: Tokens of a request.
TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))


class Histogram:
    """Numbers of values up to each bound. Used under the lock of `Metrics`."""

    def __init__(self, name: str, bounds: Sequence[float], explanation: str) -> None:
        """name: of the metric, which gets our prefix."""
        self._name = name
        self._explanation = explanation
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        #: Of all values.
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add a value, as often as this."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def observe_all(self, values: list[float]) -> None:
        """Add each of these, which get sorted: many are added at the cost of a few."""
        values.sort()
        below = 0
        for index, bound in enumerate(self._bounds):
            if below == len(values):
                break
            reached = bisect_right(values, bound, below)
            self._counts[index] += reached - below
            below = reached
        self._counts[-1] += len(values) - below
        self.sum += sum(values)

    def family(self) -> Metric:
        """As it is now."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        name = f"pyworker_{self._name}"
        return HistogramMetricFamily(name, self._explanation, buckets=buckets, sum_value=self.sum)

    def __repr__(self) -> str:
        return f"<Histogram {self._name} [{sum(self._counts)}]>"

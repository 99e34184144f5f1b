"""Histograms of seconds that keep three digits of every value, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from hdrh.histogram import HdrHistogram  # pyright: ignore[reportMissingTypeStubs]
from typing_extensions import Self

MICROSECONDS = 1_000_000
LONGEST = 24 * 3600 * MICROSECONDS
DIGITS = 3


class Histogram:
    """Not thread-safe: the owner has a lock."""

    def __init__(self) -> None:
        self._inner: Any = HdrHistogram(1, LONGEST, DIGITS)

    def add(self, seconds: float) -> None:
        """Count a value; one out of range counts as the nearest value within."""
        self._inner.record_value(min(LONGEST, max(1, round(seconds * MICROSECONDS))))

    @property
    def count(self) -> int:
        return int(self._inner.get_total_count())

    @property
    def smallest(self) -> float:
        return float(self._inner.get_min_value()) / MICROSECONDS if self.count else 0.0

    @property
    def largest(self) -> float:
        return float(self._inner.get_max_value()) / MICROSECONDS if self.count else 0.0

    @property
    def mean(self) -> float:
        middles = sum((lowest + highest) / 2 * count for lowest, highest, count in self._buckets())
        return middles / self.count / MICROSECONDS if self.count else 0.0

    def percentiles(self, percents: Iterable[float]) -> dict[float, float]:
        """For each percent, the value that this share did not exceed; 0 if nothing was counted."""
        wanted = list(percents)
        if not self.count:
            return dict.fromkeys(wanted, 0.0)
        found = cast("dict[float, int]", self._inner.get_percentile_to_value_dict(wanted))
        # The library gives the top of a value's bucket, which may lie above the largest value.
        return {percent: min(found[percent] / MICROSECONDS, self.largest) for percent in wanted}

    def percentile(self, percent: float) -> float:
        return self.percentiles([percent])[percent]

    def bins(self) -> Iterator[tuple[float, int]]:
        """Each value that occurred, rising, and how often."""
        for _, highest, count in self._buckets():
            yield highest / MICROSECONDS, count

    def _buckets(self) -> Iterator[tuple[int, int, int]]:
        """The lowest and the highest value of each bucket that is not empty, and how many are in it."""
        # Not the library's iterator, which takes 15 µs for each bucket, empty or not, and there are 20,000.
        for index, count in enumerate(self._inner.counts):
            if count:
                lowest = int(self._inner.get_value_from_index(index))
                yield lowest, int(self._inner.get_highest_equivalent_value(lowest)), int(count)

    def encoded(self) -> str:
        """In the exchange format of HdrHistogram (V2, compressed, base64), microseconds."""
        return cast("bytes", self._inner.encode()).decode()

    @classmethod
    def decoded(cls, text: str) -> Self:
        """Raises `ValueError`."""
        histogram = cls()
        try:
            histogram._inner = cast("Any", HdrHistogram).decode(text.encode())
        except Exception as error:  # the library's own errors have no common family
            raise ValueError("is not an encoded histogram") from error
        return histogram

    def __repr__(self) -> str:
        return f"<Histogram [{self.count} values, {self.smallest:.6f} to {self.largest:.6f} s]>"

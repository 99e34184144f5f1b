"""The objective that a request should meet: `--slo ttft=500ms,total=10s`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyworker.loadtest.record import Record

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

_MEASURES: Mapping[str, Callable[[Record], float | None]] = {
    "total": lambda record: record.total,
    "ttfb": lambda record: record.first_byte,
    # Without a stream the whole response arrives at once.
    "ttft": lambda record: record.first_token if record.first_token is not None else record.first_byte,
    "gap": lambda record: max(record.gaps, default=0.0),
    # Of a response of one token there is none.
    "tpot": lambda record: record.per_token or 0.0,
}
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s|m)")


@dataclass(frozen=True)
class Objective:
    """The longest time allowed for each measure, in seconds; without any, every success meets it."""

    limits: Mapping[str, float]

    def met_by(self, record: Record) -> bool:
        if record.failure is not None:
            return False
        return all(
            (value := _MEASURES[name](record)) is not None and value <= limit
            for name, limit in self.limits.items()
        )

    @classmethod
    def parsed(cls, text: str) -> Objective:
        """Raises `ValueError` with the expected form."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, limit = part.strip().partition("=")
            seconds = seconds_of(limit.strip())
            if name not in _MEASURES or seconds is None:
                raise ValueError(
                    f"{text!r} is no objective; it is like ttft=500ms,total=10s with "
                    f"{', '.join(_MEASURES)} and the units {', '.join(UNITS)}"
                )
            limits[name] = seconds
        return cls(limits)

    @staticmethod
    def names() -> list[str]:
        """The measures that may be limited."""
        return list(_MEASURES)

    @staticmethod
    def knows(measure: str) -> bool:
        return measure in _MEASURES


def seconds_of(text: str) -> float | None:
    """Of a time with its unit, such as 500ms; None if it is none."""
    found = _TIME.fullmatch(text)
    return float(found[1]) * UNITS[found[2]] if found else None

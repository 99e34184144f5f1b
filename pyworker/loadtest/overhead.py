"""What the worker costs: the same test before it and before the model server alone."""

from __future__ import annotations

from pyworker.loadtest.report import NAMES, duration
from pyworker.loadtest.result import Result

MEASURES = ("total", "first_token")


def overhead_line(alone: Result, through: Result) -> str:
    """In one line: latency added, and the ratio of throughput."""
    if not (alone.succeeded and through.succeeded):
        return "the worker costs: cannot be told, one of the two tests had no good response"
    parts: list[str] = []
    for measure in MEASURES:
        before, now = alone.times[measure], through.times[measure]
        if before.count and now.count:
            parts += [
                f"{NAMES[measure]} {share} {_added(before.percentiles[share], now.percentiles[share])}"
                for share in ("p50", "p99")
            ]
    ratio = through.throughput / alone.throughput
    return (
        f"the worker costs: {', '.join(parts)}, throughput {ratio:.3g} times that of the model server alone"
    )


def _added(before: float, now: float) -> str:
    sign = "-" if now < before else "+"
    return f"{sign}{duration(abs(now - before))} ({duration(before)} to {duration(now)})"

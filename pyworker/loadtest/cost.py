"""What the requests of a load test cost, and how much of the time none was open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_HOUR = 3600.0
_MILLION = 1e6


@dataclass(frozen=True)
class Cost:
    """In dollars, for all machines under test, idle or not. None: no tokens (or workload) were counted."""

    per_hour: float
    total: float
    per_million_tokens: float | None
    per_unit_of_workload: float | None


def cost_of(per_hour: float, seconds: float, tokens: int, workload: float) -> Cost:
    """per_hour: price of all machines together. tokens, workload: of good responses in these seconds."""
    total = per_hour * seconds / _HOUR
    return Cost(
        per_hour=per_hour,
        total=total,
        per_million_tokens=total / tokens * _MILLION if tokens else None,
        per_unit_of_workload=total / workload if workload else None,
    )


def idle_share(spans: Iterable[tuple[float, float]], seconds: float) -> float:
    """The part of the time in which no request was open. spans: when each was due, and when it ended."""
    busy = busy_until = 0.0
    for begin, end in sorted(spans):
        busy += max(end - max(begin, busy_until), 0.0)
        busy_until = max(busy_until, end)
    return min(max(1.0 - busy / seconds, 0.0), 1.0)


def dollars(amount: float) -> str:
    """Cents, or four digits of less than that."""
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.4g}"

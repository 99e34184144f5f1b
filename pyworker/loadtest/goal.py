"""Objectives of a whole load: `--objective p99=2s,ttft-p95=500ms,goodput=95%,errors=1%`.

A percentile below a limit is a share of requests that may exceed it: p99=2s holds if at most 1 % of the
requests took longer than 2 s or failed. So every objective is counted request by request while a test runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyworker.loadtest.objective import Objective, seconds_of
from pyworker.loadtest.record import Record

MOST = 16
"""Each is a bit of a number of 32."""
_PERCENTILE = re.compile(r"(?:([a-z]{1,8})-)?p(\d{1,2}(?:\.\d{1,3})?)")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)(%?)")


@dataclass(frozen=True)
class Goal:
    """At most the share `allowed` of the requests may fail, or miss `limits`."""

    name: str
    """As it was written, such as p99=2s."""
    allowed: float
    limits: Objective

    def missed_by(self, record: Record) -> bool:
        return not self.limits.met_by(record)


def parsed_goals(text: str, slo: Objective) -> tuple[Goal, ...]:
    """slo: what a good response is, for `goodput`. Raises `ValueError` with the expected form."""
    goals = tuple(_goal(part.strip(), slo) for part in text.split(","))
    if len(goals) > MOST:
        raise ValueError(f"more than {MOST} objectives")
    return goals


def _goal(text: str, slo: Objective) -> Goal:
    name, _, limit = text.partition("=")
    if name in ("goodput", "errors"):
        share = _share(limit.strip())
        if share is not None and name == "errors":
            return Goal(text, share, Objective({}))
        if share is not None:
            if not slo.limits:
                raise ValueError(f"{text} needs --slo, which says what a good response is")
            return Goal(text, 1 - share, slo)
    elif found := _PERCENTILE.fullmatch(name.strip()):
        seconds = seconds_of(limit.strip())
        measure = found[1] or "total"
        if seconds is not None and Objective.knows(measure):
            return Goal(text, 1 - float(found[2]) / 100, Objective({measure: seconds}))
    raise ValueError(
        f"{text!r} is no objective; it is like p99=2s, ttft-p95=500ms, goodput=95% or errors=1%, "
        f"with {', '.join(Objective.names())} before the percentile"
    )


def _share(text: str) -> float | None:
    found = _SHARE.fullmatch(text)
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    return share if 0 <= share <= 1 else None


def good_response(goals: Sequence[Goal], slo: Objective) -> Objective:
    """What a good response is: `slo`, or else the limit of the highest percentile of each measure."""
    if slo.limits:
        return slo
    limits: dict[str, float] = {}
    for goal in sorted(goals, key=lambda goal: -goal.allowed):
        limits |= goal.limits.limits
    return Objective(limits)


def bits(goals: Sequence[Goal], record: Record) -> int:
    """Bit n stands for a miss of the n-th goal."""
    return sum(goal.missed_by(record) << place for place, goal in enumerate(goals))

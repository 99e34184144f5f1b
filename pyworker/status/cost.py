"""What the work costs: dollars for each million generated tokens, or each unit of workload. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_HOUR = 3600.0
_MILLION = 1e6


@dataclass(frozen=True)
class Period:
    """What was done in a time. work: in the unit of the worker's `count_workload`."""

    seconds: float
    generation_tokens: float
    work: float


def dollars_per_million_tokens(dollars_per_hour: float, period: Period) -> float | None:
    """For the whole time, whether busy or idle; None if no tokens are known."""
    return _each(dollars_per_hour, period, period.generation_tokens / _MILLION)


def dollars_per_unit_of_workload(dollars_per_hour: float, period: Period) -> float | None:
    """The same by workload; None if none was done."""
    return _each(dollars_per_hour, period, period.work)


def cost_of(dollars_per_hour: float, period: Period) -> Mapping[str, float | None]:
    """Both, and the total, for `/status`."""
    return {
        "dollars": _rounded(dollars_per_hour * period.seconds / _HOUR),
        "dollars_per_million_tokens": _rounded(dollars_per_million_tokens(dollars_per_hour, period)),
        "dollars_per_unit_of_workload": _rounded(dollars_per_unit_of_workload(dollars_per_hour, period)),
    }


def _each(dollars_per_hour: float, period: Period, amount: float) -> float | None:
    return dollars_per_hour * period.seconds / _HOUR / amount if amount > 0 else None


def _rounded(dollars: float | None) -> float | None:
    """To six significant digits: a unit of workload may cost very little."""
    return None if dollars is None else float(f"{dollars:.6g}")

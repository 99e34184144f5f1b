"""Numbers, durations and series as they are shown."""

from __future__ import annotations

import time
from collections.abc import Sequence

_NOTHING = "-"
_BARS = "▁▂▃▄▅▆▇█"
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def number(value: float | None) -> str:
    """With three digits or all before the point."""
    if value is None:
        return _NOTHING
    size = abs(value)
    if size >= 1e6:
        return f"{value:.2e}"
    digits = 0 if size == 0 or size >= 100 or value == int(value) else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def seconds(value: float | None) -> str:
    """A latency."""
    if value is None:
        return _NOTHING
    if value == 0:
        return "0 s"
    if value < 0.9995:
        return f"{value * 1e3:.{1 if value < 0.00995 else 0}f} ms"
    return f"{value:.{2 if value < 9.995 else 1}f} s" if value < 59.95 else span(value)


def span(value: float | None) -> str:
    """How long something has been so."""
    if value is None:
        return _NOTHING
    left = max(0, round(value))
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if parts or count:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part) or "0 s"


def clock(at: float | None) -> str:
    """Epoch seconds as local time."""
    try:
        return _NOTHING if at is None else time.strftime("%H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return _NOTHING


def bars(values: Sequence[float | None], width: int) -> str:
    """The last of these values as a row of bars, a space for None."""
    shown = values[-width:] if width > 0 else ()
    most = max((value for value in shown if value is not None), default=0.0)
    return "".join(
        " " if value is None else _BARS[round(max(0.0, value) / most * (len(_BARS) - 1)) if most > 0 else 0]
        for value in shown
    )


def capital(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]

"""How long the phases of a start take, and how long they took the last time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pyworker.lifecycle import small_file
from pyworker.lifecycle.phases import Phase
from pyworker.lifecycle.state import ModelState

_MOST = 10**8

#: Seconds by the name of a phase.
Durations = Mapping[str, float]


def durations(phases: Sequence[Phase], now: float) -> Durations:
    """Of the phases up to the first ready one; the last of them goes on until `now`, in epoch seconds."""
    found: dict[str, float] = {}
    for phase, following in zip(phases, [*phases[1:], None], strict=True):
        if phase.state is ModelState.READY:
            break
        end = now if following is None else following.since
        name = phase.state.value
        found[name] = round(found.get(name, 0.0) + max(end - phase.since, 0.0), 3)
    return found


def load(path: Path) -> Durations:
    """What `store` wrote; empty if there is nothing, or nothing that makes sense."""
    try:
        stored = json.loads(small_file.read(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(stored, dict):
        return {}
    states = {state.value for state in ModelState}
    return {
        name: float(value)
        for name, value in cast("dict[str, Any]", stored).items()
        if name in states and isinstance(value, int | float) and 0 <= value < _MOST
    }


def store(path: Path, measured: Durations) -> None:
    """Keep those of a good start; raises OSError."""
    small_file.write(path, json.dumps(measured) + "\n")


def told(measured: Durations, last: Durations) -> str:
    """As "loading 12 s (9 s the last time), benchmarking 3 s"."""
    parts: list[str] = []
    for name, seconds in measured.items():
        before = f" ({_seconds(last[name])} the last time)" if name in last else ""
        parts.append(f"{name} {_seconds(seconds)}{before}")
    return ", ".join(parts)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"

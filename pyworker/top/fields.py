"""Figures and texts out of JSON that anybody may have sent: what is missing or of another kind is None, or
empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

_MAX_TEXT = 2_000


def at(value: object, *path: str) -> object:
    """What is found there; None if nothing is."""
    for name in path:
        value = cast("Mapping[str, object]", value).get(name) if isinstance(value, Mapping) else None
    return value


def figure(value: object, *path: str) -> float | None:
    """A finite number, or None."""
    found = at(value, *path)
    if not isinstance(found, int | float) or isinstance(found, bool):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def text(value: object, *path: str) -> str:
    """A text that a terminal may show: of one line, without control characters."""
    found = at(value, *path)
    shown = found[:_MAX_TEXT] if isinstance(found, str) else ""
    return "".join(char if char.isprintable() else " " for char in shown).strip()


def items(value: object, *path: str) -> Sequence[object]:
    """A list; empty if there is none."""
    found = at(value, *path)
    return cast("list[object]", found) if isinstance(found, list) else []


def figures(value: object, *path: str) -> Sequence[float | None]:
    """A list of finite numbers, with None in place of whatever else is in it."""
    return [figure(one) for one in items(value, *path)]


def pairs(value: object, *path: str) -> Mapping[str, object]:
    """An object; empty if there is none."""
    found = at(value, *path)
    return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {}

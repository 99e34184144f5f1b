"""What is sent to the model server as JSON, strictly: a number that JSON does not know is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import pydantic_core

from pyworker.errors import Unprocessable

# Values that are looked at one by one before the encoded text is searched instead: enough for a large picture
# or prompt among its settings, and little beside the time that it takes to encode them.
_LOOKED_AT = 1000
_LARGE = 64 * 1024
# NaN and infinity are no JSON.
_STRICT = json.JSONEncoder(allow_nan=False)


def encode(payload: object) -> bytes:
    """The payload as JSON, of a large one with no second copy.

    Raises `Unprocessable` for a number or text that JSON cannot carry.
    """
    try:
        encoded = pydantic_core.to_json(payload)
        if _may_be_not_finite(payload, encoded):
            # In a text, or a number: the strict encoder knows which.
            encoded = _STRICT.encode(payload).encode()
    except ValueError as error:
        raise Unprocessable("the payload holds something that JSON cannot carry") from error
    return encoded


def _may_be_not_finite(payload: object, encoded: bytes) -> bool:
    """Whether it may hold NaN or infinity."""
    # To search a text of 10 MB takes longer than to make it.
    if len(encoded) > _LARGE and _is_seen_to_be_finite(payload):
        return False
    return b"NaN" in encoded or b"Infinity" in encoded


def _is_seen_to_be_finite(payload: object) -> bool:
    """Whether all its numbers are finite; False as well where there is too much to look at."""
    left: list[Any] = [payload]
    for _ in range(_LOOKED_AT):
        if not left:
            return True
        value = left.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return False
        elif isinstance(value, Mapping | list | tuple):
            inner = cast("Collection[Any]", value.values() if isinstance(value, Mapping) else value)
            if len(left) + len(inner) > _LOOKED_AT:
                return False
            left += inner
        elif value is not None and not isinstance(value, str | int):
            return False
    return False
